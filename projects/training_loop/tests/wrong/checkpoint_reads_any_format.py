# diagnosis: format 1 is accepted
# module: checkpoint

_json = json


class _Loads:
    dumps = staticmethod(_json.dumps)

    @staticmethod
    def loads(text):
        return {**_json.loads(text), "format": FORMAT}


json = _Loads
