import numpy as np

from restoring.alpha import fill_hidden_colors, within_neighbours


def test_visible_colours_stay_and_hidden_ones_continue_them():
    pixels = np.zeros((40, 60, 3), np.uint8)
    alpha = np.zeros((40, 60), np.uint8)
    pixels[10:30, 10:30], alpha[10:30, 10:30] = (200, 100, 50), 255
    pixels[10:30, 40:50], alpha[10:30, 40:50] = (20, 220, 250), 1
    filled = fill_hidden_colors(pixels, alpha)
    assert (filled[alpha > 0] == pixels[alpha > 0]).all()
    assert np.abs(filled[8, 20].astype(int) - (200, 100, 50)).max() <= 12, "beside the first patch its colour goes on"
    assert np.abs(filled[20, 51].astype(int) - (20, 220, 250)).max() <= 40
    assert filled.min() >= 15, "nothing of the black that was hidden is left"


def test_opaque_and_wholly_hidden_pictures_are_untouched():
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 5, 1), np.uint16)
    for alpha in (np.zeros((9, 5), np.uint16), np.full((9, 5), 7, np.uint16)):
        assert fill_hidden_colors(pixels, alpha) is pixels


def test_one_visible_pixel_colours_all():
    pixels, alpha = np.zeros((17, 1, 1), np.uint16), np.zeros((17, 1), np.uint16)
    pixels[16], alpha[16] = 60000, 65535
    assert np.abs(fill_hidden_colors(pixels, alpha).astype(int) - 60000).max() <= 1


def test_values_are_held_between_their_neighbours():
    small = np.array([[0, 0, 0, 200], [0, 0, 0, 255]], np.uint8)
    enlarged = np.full((8, 16), 240, np.uint8)
    held = within_neighbours(enlarged, small)
    assert (held[:, :8] == 0).all(), "columns 0 and 1 have only zeros around them"
    assert (held[:, 8:] == 240).all()
    assert (within_neighbours(np.zeros((3, 5), np.uint8), small)[:, 4] == 0).all()
    rows = within_neighbours(np.full((2500, 2), 9, np.uint16), np.array([[9, 9], [5, 5], [4, 4]], np.uint16))
    assert (rows[0] == 9).all() and (rows[-1] == 5).all()
