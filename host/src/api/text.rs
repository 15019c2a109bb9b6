//! An explanation for people: the answer first, then what it rests on.

use super::model::{Explanation, OperatorExplanation, PartitionExplanation, SourceExplanation};
use super::words;

impl Explanation {
    pub fn text(&self) -> String {
        let mut lines = vec![self.answer.clone()];
        for operator in &self.operators {
            lines.push(String::new());
            operator.lines(self.now_at_ms, &mut lines);
        }
        for source in &self.sources {
            lines.push(String::new());
            source.lines(self.now_at_ms, &mut lines);
        }
        lines.join("\n") + "\n"
    }
}

fn stands(watermark_ms: Option<i64>, now_ms: i64) -> String {
    watermark_ms.map_or("no event yet".to_owned(), |ms| words::time(ms, now_ms))
}

fn unsigned(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl OperatorExplanation {
    pub fn lines(&self, now_ms: i64, lines: &mut Vec<String>) {
        lines.push(format!("{} ({})", self.name, self.kind.name()));
        let idle = if self.idle { ", all inputs are idle" } else { "" };
        let lasts = words::duration(self.stands_for_ms);
        lines.push(format!("  watermark  {}, for {lasts}{idle}", stands(self.watermark_ms, now_ms)));
        if let Some(held) = &self.held_by {
            let partition = held.partition.as_ref().map_or(String::new(), |p| format!(" {}/{}", p.topic, p.partition));
            let since = words::time(held.since_at_ms, now_ms);
            lines.push(format!(
                "  held by    `{}`{partition} at {} since {since}: {}",
                held.node,
                stands(held.watermark_ms, now_ms),
                held.because
            ));
        }
        for input in &self.inputs {
            let idle = if input.idle { " (idle)" } else { "" };
            lines.push(format!("  input      `{}` {}{idle}", input.node, stands(input.watermark_ms, now_ms)));
        }
        let w = &self.windows;
        if w.open > 0 || w.closed > 0 {
            let oldest = w.oldest_open.as_ref().map_or(String::new(), |oldest| {
                let missing =
                    oldest.missing_ms.map_or(String::new(), |ms| format!(", {} from now", words::duration(ms)));
                format!(
                    "; {} closes when event time is {}{missing}",
                    words::window(oldest.start_ms, oldest.end_ms, now_ms),
                    words::time(oldest.end_ms, now_ms)
                )
            });
            lines.push(format!("  windows    {} open, {} closed{oldest}", w.open, w.closed));
        }
        lines.push(format!(
            "  state      {}, {} bytes",
            words::of(unsigned(w.groups), "group"),
            words::number(unsigned(w.state_bytes))
        ));
        if w.corrections_waiting > 0 {
            lines.push(format!("  waiting    {}", words::of(unsigned(w.corrections_waiting), "correction")));
        }
        if self.late_total > 0 {
            let from =
                self.late.iter().map(|l| format!("{} from {}/{} of `{}`", l.events, l.topic, l.partition, l.source));
            let from: Vec<String> = from.collect();
            lines.push(format!("  late       {}: {}", words::of(unsigned(self.late_total), "event"), from.join(", ")));
        }
    }
}

impl SourceExplanation {
    fn lines(&self, now_ms: i64, lines: &mut Vec<String>) {
        let idle = if self.idle { ", idle" } else { "" };
        lines.push(format!("{} (source) {}{idle}", self.name, stands(self.watermark_ms, now_ms)));
        let wide = self.partitions.iter().map(|p| p.name().len()).max().unwrap_or_default();
        for p in &self.partitions {
            let future = match p.future_total {
                0 => String::new(),
                n => format!("; {} dated beyond max_future", words::of(unsigned(n), "message")),
            };
            let name = p.name();
            lines.push(format!("  {name:wide$}  {}  {}{future}", stands(p.watermark_ms, now_ms), p.because));
        }
    }
}

impl PartitionExplanation {
    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }
}
