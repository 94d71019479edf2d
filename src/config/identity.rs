//! `[identity]` and `[[user]]`: how clients prove who they are, and Handover's own users.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::User;
use super::address::BackendUrl;
use super::file::{command_or_category, credential, read_secret};
use super::section::{Choices, Notes, Section};
use crate::logic::identity::{IdentityMode, IdentitySettings, PasswordHash};

const MODES: &Choices<IdentityMode> = &[
    ("open", Some(IdentityMode::Open)),
    ("users", Some(IdentityMode::Users)),
    ("passthrough", Some(IdentityMode::Passthrough)),
];
/// Shorter times would be a load on the backends, or close clients that are merely slow.
const SHORTEST: Duration = Duration::from_millis(100);
/// An ACL change takes effect within a minute.
const VERIFY_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Passwords of one user: an old one and a new one, with room to spare.
const PASSWORDS_MAX: usize = 16;

/// `[identity]`.
pub(super) fn identity(section: &mut Section<'_>) -> IdentitySettings {
    let mut settings = IdentitySettings::default();
    section.choice("mode", MODES, &mut settings.mode);
    section.duration("authentication_timeout", SHORTEST, &mut settings.authentication_timeout);
    section.duration("verify_interval", SHORTEST, &mut settings.verify_interval);
    if settings.verify_interval > VERIFY_INTERVAL_MAX {
        section.problem("verify_interval", None, "must be at most 60s, within which changes of ACLs take effect");
    }
    settings
}

/// One `[[user]]`; `None`: a problem was noted.
pub(super) fn user(section: &mut Section<'_>, mode: IdentityMode) -> Option<User> {
    let name = section.required("name", user_name);
    let passwords = passwords(section, mode);
    let backend = section.child("backend", |section| credential(section, BackendUrl::default()));
    let allow = section.list("allow", command_or_category);
    let deny = section.list("deny", command_or_category);
    let set = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
    Some(User {
        name: name?,
        passwords: passwords?,
        backend,
        // An empty list is what the reference shows, and a user that may nothing is no user.
        allow: allow.map(set).filter(|list| !list.is_empty()),
        deny: deny.map(set).unwrap_or_default(),
    })
}

/// What must hold over all users; returns those that count.
pub(super) fn check(users: Vec<User>, mode: IdentityMode, has_problem: bool, notes: &mut Notes) -> Vec<User> {
    if mode != IdentityMode::Users {
        if !users.is_empty() {
            notes.warn("user", "has no effect, since identity.mode is not \"users\"");
        }
        return Vec::new();
    }
    if users.is_empty() && !has_problem {
        notes.problem("user", None, "at least one is needed, since identity.mode is \"users\"");
    }
    let mut names = BTreeSet::new();
    for (index, user) in users.iter().enumerate().filter(|(_, user)| !names.insert(user.name.clone())) {
        notes.problem(&format!("user[{index}].name"), Some(format!("\"{}\"", user.name)), "is there twice");
    }
    users
}

fn user_name(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("must be made of printable characters without spaces".to_owned()),
    }
}

fn passwords(section: &mut Section<'_>, mode: IdentityMode) -> Option<Vec<PasswordHash>> {
    let mut warning = None;
    let is_wanted = mode == IdentityMode::Users;
    let read = section.required("password_file", |path| match is_wanted {
        true => parse_passwords(&read_secret(Path::new(path), &mut warning)?),
        // Not read where it has no effect.
        false => Ok(Vec::new()),
    });
    if let Some(message) = warning {
        let path = section.path_of("password_file");
        section.notes.warn(&path, &message);
    }
    read
}

/// A password a line, or `#` and the SHA-256 of one in hexadecimal digits, as Redis's ACLs have it.
fn parse_passwords(text: &str) -> Result<Vec<PasswordHash>, String> {
    let lines = text.lines().filter(|line| !line.is_empty());
    let hash = |line: &str| line.strip_prefix('#').and_then(PasswordHash::from_hex);
    let passwords: Vec<_> = lines.map(|line| hash(line).unwrap_or_else(|| PasswordHash::of(line.as_bytes()))).collect();
    match passwords.len() {
        0 => Err("has no password in it".to_owned()),
        1..=PASSWORDS_MAX => Ok(passwords),
        _ => Err(format!("has more than {PASSWORDS_MAX} passwords in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::policy::Policy;

    #[test]
    fn a_file_has_a_password_or_a_hash_on_each_line() {
        let hash = "#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        let of = |words: &[&str]| words.iter().map(|word| PasswordHash::of(word.as_bytes())).collect::<Vec<_>>();
        for (text, expected) in [
            ("secret", of(&["secret"])),
            ("secret\r\n", of(&["secret"])),
            ("old\n\nnew word\n", of(&["old", "new word"])),
            (hash, of(&["password"])),
            (&hash[..20], of(&[&hash[..20]])),
        ] {
            assert_eq!(parse_passwords(text), Ok(expected), "{text:?}");
        }
        assert!(parse_passwords("\n\n").is_err());
        assert!(parse_passwords(&"x\n".repeat(17)).is_err());
    }

    #[test]
    fn every_category_that_a_list_may_name_is_known_to_the_policy() {
        for &category in super::super::file::COMMAND_CATEGORIES {
            let listed = BTreeSet::from([category.to_owned()]);
            let policy = Policy::new(None, &listed, &BTreeSet::new());
            assert!(policy.is_ok_and(|policy| policy.restricted(Some(&listed), &listed).is_ok()), "{category}");
        }
    }
}
