"""Impressions, clicks, conversions, revenue, unique users and rates per campaign: the plugin of ../src/lib.rs, its state
included, so that either goes on from what the other has saved."""

import json

from millrace import Reject, aggregation


@aggregation(
    name="campaign-metrics",
    version="1.0.0",
    options={"unique_users": {"enum": ["exact"], "default": "exact"}},  # no estimates here ("hll" in Rust)
    input={"event_type": "string", "user_id": "string", "revenue": "double?"},
    state={
        "impressions": "long", "clicks": "long", "conversions": "long", "revenue": "double",
        "users": "distinct<string>",
    },
    output={
        "impressions": "long", "clicks": "long", "conversions": "long", "revenue": "double", "unique_users": "long",
        "ctr": "double?", "cvr": "double?",
    },
)
class Campaign:
    def update(self, event_type, user_id, revenue):
        if event_type == "impression":
            self.impressions += 1
        elif event_type == "click":
            self.clicks += 1
        elif event_type == "conversion":
            self.conversions += 1
        else:
            raise Reject(f"unknown event_type {json.dumps(event_type, ensure_ascii=False)}")
        self.revenue += revenue or 0.0
        self.users.add(user_id)

    def merge(self, other):
        self.impressions += other.impressions
        self.clicks += other.clicks
        self.conversions += other.conversions
        self.revenue += other.revenue
        self.users |= other.users

    def evaluate(self, window):
        return {
            "impressions": self.impressions, "clicks": self.clicks, "conversions": self.conversions,
            "revenue": self.revenue, "unique_users": len(self.users),
            "ctr": rate(self.clicks, self.impressions), "cvr": rate(self.conversions, self.clicks),
        }


def rate(part, whole):
    return part / whole if whole else None
