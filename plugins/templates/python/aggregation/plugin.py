"""Events, revenue and unique users of each key."""

from millrace import Reject, aggregation


@aggregation(
    name="{{name}}",
    version="0.1.0",
    # the columns that it reads: the parameters of `update`
    input={"user_id": "string", "revenue": "double?"},
    # what it keeps of one key while a window is open: the attributes of an object
    state={"events": "long", "revenue": "double", "users": "distinct<string>"},
    # the columns of a result, after the key's and the window's
    output={"events": "long", "revenue": "double", "unique_users": "long"},
)
class {{Pascal}}:
    def update(self, user_id, revenue):
        revenue = revenue or 0.0
        if revenue < 0:
            raise Reject("negative revenue")
        self.events += 1
        self.revenue += revenue
        self.users.add(user_id)

    def merge(self, other):
        self.events += other.events
        self.revenue += other.revenue
        self.users |= other.users

    def evaluate(self, window):
        return {"events": self.events, "revenue": self.revenue, "unique_users": len(self.users)}
