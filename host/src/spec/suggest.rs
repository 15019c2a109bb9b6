//! "Did you mean …?": the nearest of the words that would have been right.

/// More candidates than this are not listed.
const LISTED_MAX: usize = 16;

/// The candidate that a slip of the fingers away from `word` would be, if there is one.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // a third of the word may be wrong, as in rustc
    let allowed = (word.chars().count().max(3) / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint that names the nearest candidate, or all of them if none is near; none if there are no candidates.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = closest(word, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    match all.len() {
        0 => None,
        1 => Some(format!("there is only {}", all.join(""))),
        2..=LISTED_MAX => Some(format!("known here: {}", all.join(", "))),
        _ => None,
    }
}

/// Edits (insert, delete, replace, swap of neighbours) between two words: optimal string alignment.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut a_previous = None;
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut b_previous = None;
        for (j, cb) in b.iter().copied().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&row, j) + usize::from(ca != cb)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            if j > 0 && Some(cb) == a_previous && Some(ca) == b_previous {
                cost = cost.min(at(&before, j - 1) + 1);
            }
            next.push(cost);
            b_previous = Some(cb);
        }
        before = std::mem::replace(&mut row, next);
        a_previous = Some(ca);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("topic", "topics", 1),
            ("kitten", "sitting", 3),
            ("", "ab", 2),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn nothing_is_suggested_for_a_word_of_another_kind() {
        assert_eq!(closest("brokers", ["topic", "format"]), None);
        assert_eq!(closest("formt", ["topic", "format"]), Some("format"));
    }
}
