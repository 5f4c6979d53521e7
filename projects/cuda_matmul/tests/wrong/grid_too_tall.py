# diagnosis: grid

MOST_BLOCKS_IN_Y = 2**31
