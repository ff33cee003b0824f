"""The steps of tools/gpu_check.py: functions that take a `Setting` and yield rows."""
