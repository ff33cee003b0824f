import logging

# diffusers imports bitsandbytes where pyiqa has brought it, and that warns of a 4-bit kernel which nobody here has asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
