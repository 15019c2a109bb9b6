//! The secret that a client shows: from the environment, or a file that the environment names.

use std::fmt;

use sha2::{Digest, Sha256};

pub const VARIABLE: &str = "MILLRACE_API_TOKEN";
pub const FILE_VARIABLE: &str = "MILLRACE_API_TOKEN_FILE";

#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the API's token must be one word of printable ASCII characters".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// None: no token is set.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        if let Some(text) = variable(VARIABLE) {
            return Self::new(&text).map(Some).map_err(|e| format!("{VARIABLE}: {e}"));
        }
        let Some(file) = variable(FILE_VARIABLE) else { return Ok(None) };
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{FILE_VARIABLE}: {file}: {e}"))?;
        Self::new(&text).map(Some).map_err(|e| format!("{FILE_VARIABLE}: {file}: {e}"))
    }

    /// As a client sends it.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Takes as long for any wrong answer: what is compared are digests.
    pub fn is(&self, header: Option<&[u8]>) -> bool {
        let shown =
            header.and_then(|h| h.split_at_checked(7)).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        shown.is_some_and(|(_, shown)| Sha256::digest(shown.trim_ascii()) == Sha256::digest(&self.0))
    }
}
