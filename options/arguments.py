"""The arguments by which every script takes its options, so that all of them treat a repeated one alike."""

import argparse


def add_option_arguments(parser: argparse.ArgumentParser, opt: str, force: str = "change options, such as tile=512") -> None:
    """Adds `-opt FILE`, which must be given, and `--force_yml`. `opt`, `force`: their help."""
    parser.add_argument("-opt", required=True, metavar="FILE", help=opt)
    add_several(parser, "--force_yml", metavar="KEY=VALUE", help=force)


def add_several(parser: argparse.ArgumentParser, *names: str, metavar: str, help: str) -> None:
    """Adds an option of one value or more. Given again it adds to those before: argparse by itself would drop them without a word."""
    parser.add_argument(*names, nargs="+", action="extend", default=[], metavar=metavar, help=help)
