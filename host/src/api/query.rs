//! What stands behind `?`: names and values, percent-encoded.

/// An error says what is wrong with it.
pub fn parse(query: &str) -> Result<Vec<(String, String)>, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, others) = rest.split_at_checked(2).ok_or_else(wrong)?;
                let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                bytes.push(u8::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?);
                rest = others;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A value, so that [`parse`] gives it back.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back() {
        let odd = "a=b&c d+ü%\"{}";
        let query = format!("x={}&y.z=1&&flag", encode(odd));
        let pairs = [("x", odd), ("y.z", "1"), ("flag", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(parse(&query).unwrap(), pairs);
        assert_eq!(parse("a=b+c").unwrap()[0].1, "b c");
        for wrong in ["a=%", "a=%2", "a=%zz", "a=%+1", "a=%ff"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
