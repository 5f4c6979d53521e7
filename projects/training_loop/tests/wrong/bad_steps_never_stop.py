# diagnosis: three in a row

MOST_SKIPPED = 6
