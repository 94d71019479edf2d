//! Handover's own users: who they are, what they may do, and as whom their commands reach the backends.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use subtle::Choice;

use super::{Login, PasswordHash};
use crate::command::policy::Policy;

/// One of Handover's own users.
#[derive(Clone)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Any of these lets it in; several while a password is being changed.
    pub passwords: Vec<PasswordHash>,
    /// As whom its commands travel; `None`: as the user of each backend's URL.
    pub login: Option<Arc<Login>>,
    /// What it may do; `None`: what everybody may.
    pub policy: Option<Arc<Policy>>,
}

/// All of them.
#[derive(Clone, Default)]
pub struct Users {
    accounts: HashMap<Vec<u8>, Account>,
}

impl Users {
    /// A table of users, each name once.
    #[must_use]
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        let by_name = |account: Account| (account.name.clone().into_bytes(), account);
        Self { accounts: accounts.into_iter().map(by_name).collect() }
    }

    /// The user called `name`.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Account> {
        self.accounts.get(name)
    }

    /// The user whose name and password these are. Takes as long for a wrong password as for a right one.
    #[must_use]
    pub fn verify(&self, name: &[u8], password: &[u8]) -> Option<&Account> {
        let hash = PasswordHash::of(password);
        let account = self.find(name)?;
        let is_right = account.passwords.iter().fold(Choice::from(0), |found, known| found | known.matches(&hash));
        bool::from(is_right).then_some(account)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Users").field("count", &self.accounts.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, passwords: &[&str]) -> Account {
        let passwords = passwords.iter().map(|password| PasswordHash::of(password.as_bytes())).collect();
        Account { name: name.to_owned(), passwords, login: None, policy: None }
    }

    #[test]
    fn any_password_of_a_user_lets_it_in_and_no_other() {
        let users = Users::new([account("bob", &["old", "new"]), account("eve", &["x"]), account("shut", &[])]);
        let verified = |name: &str, password: &str| {
            users.verify(name.as_bytes(), password.as_bytes()).map(|account| account.name.clone())
        };
        for (name, password, expected) in [
            ("bob", "old", Some("bob")),
            ("bob", "new", Some("bob")),
            ("eve", "x", Some("eve")),
            ("bob", "x", None),
            ("bob", "", None),
            ("Bob", "old", None),
            ("shut", "", None),
            ("nobody", "x", None),
        ] {
            assert_eq!(verified(name, password).as_deref(), expected, "{name} {password}");
        }
    }
}
