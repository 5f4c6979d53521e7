# diagnosis: beyond the last update the rate must stay
# module: schedules


def _progress(step, start, end):
    return (step - start) / max(end - start, 1)
