# diagnosis: rates
# module: schedules


def _progress(step, start, end):
    return min(1.0, (step - start) / (end + 1 - start))
