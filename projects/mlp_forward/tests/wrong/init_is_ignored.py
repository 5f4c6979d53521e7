# diagnosis: init='xavier' is ignored: this is the scale of he

_VARIANCES.update(dict.fromkeys(("xavier", "lecun"), _VARIANCES["he"]))
