# diagnosis: calls, expected 3: is the warm-up profiled?
# module: profiling


_profile = profile_operators


def profile_operators(call, *, n_calls=5, trace=None):
    rows = _profile(call, n_calls=n_calls + 1, trace=trace)
    return [
        OperatorProfile(r.name, r.n_calls, r.self_ms, r.share, r.flops * n_calls // (n_calls + 1), r.n_bytes)
        for r in rows
    ]
