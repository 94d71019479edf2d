//! Passwords and their hashes, which no `Debug` shows.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

const HIDDEN: &str = "***";

/// A password. It has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// Keeps a copy of its own, so that the buffer that it came in need not live.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// The password itself, for the handshake with a backend alone.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

/// What a backend connection authenticates with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// `None`: the default user, AUTH with one argument.
    pub user: Option<Bytes>,
    /// Its password.
    pub password: Secret,
}

/// The SHA-256 of a password, as Redis's ACLs keep it.
#[derive(Clone, Copy)]
pub struct PasswordHash([u8; 32]);

impl PasswordHash {
    /// The hash of `password`.
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// A hash from 64 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self(hash))
    }

    /// The 64 digits, to tell whether a configuration changed; never to be shown.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the two are equal, in a time that says nothing of where they differ.
    pub(super) fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for PasswordHash {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other).into()
    }
}

impl Eq for PasswordHash {}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

/// A digest of a login that nobody can make without the key: what identities are told apart by.
pub(super) fn digest(key: u64, login: &Login) -> [u8; 32] {
    let user = login.user.as_deref();
    let mut hasher = Sha256::new();
    hasher.update(key.to_le_bytes());
    // The length keeps the parts apart; no user and an empty one are different logins.
    hasher.update(user.map_or(u64::MAX, |user| user.len() as u64).to_le_bytes());
    hasher.update(user.unwrap_or_default());
    hasher.update(login.password.expose());
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: Option<&'static str>, password: &str) -> Login {
        Login { user: user.map(|user| Bytes::from_static(user.as_bytes())), password: Secret::new(password.as_bytes()) }
    }

    #[test]
    fn no_debug_shows_a_password_or_its_hash() {
        let hash = PasswordHash::of(b"hunter2");
        let shown = format!("{:?} {:?} {hash:?}", Secret::new(b"hunter2"), login(Some("bob"), "hunter2"));
        assert!(!shown.contains("hunter2") && shown.contains("bob") && shown.ends_with(HIDDEN), "{shown}");
    }

    #[test]
    fn a_hash_is_that_of_redis() {
        let hex = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        assert_eq!(PasswordHash::from_hex(hex), Some(PasswordHash::of(b"password")));
        assert_eq!(PasswordHash::from_hex(&hex.to_uppercase()), Some(PasswordHash::of(b"password")));
        assert_ne!(PasswordHash::from_hex(hex), Some(PasswordHash::of(b"Password")));
        for wrong in ["", &hex[1..], &format!("{hex}0"), &hex.replace('5', "g"), &hex.replacen("5e", "é", 1)] {
            assert_eq!(PasswordHash::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn digests_differ_with_each_part_and_with_the_key() {
        let logins = [login(None, "ab"), login(Some(""), "ab"), login(Some("a"), "b"), login(Some("ab"), "")];
        for (index, first) in logins.iter().enumerate() {
            assert_eq!(digest(1, first), digest(1, &first.clone()));
            assert_ne!(digest(1, first), digest(2, first));
            for second in &logins[index + 1..] {
                assert_ne!(digest(1, first), digest(1, second), "{first:?} {second:?}");
            }
        }
    }
}
