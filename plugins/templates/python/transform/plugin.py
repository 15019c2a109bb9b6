"""Events with a revenue that is never missing, and with whether they earned something; those of testers are left out."""

from millrace import Reject, transform


@transform(
    name="{{name}}",
    version="0.1.0",
    # the columns that it reads: the parameters of `process`
    input={"user_id": "string", "revenue": "double?"},
    # the columns that it writes; those of the input that are not among them are carried along
    output={"revenue": "double", "paid": "boolean"},
)
class {{Pascal}}:
    def process(self, user_id, revenue):
        """Gives a row, a list of rows, or None."""
        revenue = revenue or 0.0
        if revenue < 0:
            raise Reject("negative revenue")
        if user_id.startswith("test-"):
            return None
        return {"revenue": revenue, "paid": revenue > 0}
