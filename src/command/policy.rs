//! Classification with the operator's lists applied: `refuse`, `deny` and `shared` of `[commands]`.

use std::collections::BTreeSet;

use super::classify::{Classified, classify};
use super::table::{self, AclCategories, Answered, Class, Command, Flags, Pinned};
use crate::resp::arguments::Arguments;

/// The operator's lists, compiled. The default lists nothing and costs a branch.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    lists: Option<Box<Lists>>,
}

#[derive(Clone, Debug)]
struct Lists {
    /// By a command's id: refused, whatever the table says.
    refused: Box<[bool]>,
    /// Refused although the table does not have them.
    refused_unknown: BTreeSet<String>,
    /// On a lane although the table does not have them.
    shared_unknown: BTreeSet<String>,
    /// When there is such a list: everything else that the table does not have is refused.
    allowed_unknown: Option<BTreeSet<String>>,
}

impl Policy {
    /// Compiles the lists. Names are matched in any case; `container` stands for all its subcommands too, `@category`
    /// for every command of an ACL category.
    ///
    /// # Errors
    /// Says in words which entry is an unknown category, or is listed as shared although the table knows better.
    pub fn new(
        refuse: Option<&BTreeSet<String>>,
        deny: &BTreeSet<String>,
        shared: &BTreeSet<String>,
    ) -> Result<Self, String> {
        if refuse.is_none() && deny.is_empty() && shared.is_empty() {
            return Ok(Self::default());
        }
        let mut lists = if refuse.is_none() { Lists::standard() } else { Lists::empty() };
        for entry in refuse.into_iter().flatten().chain(deny) {
            lists.refuse(&entry.to_ascii_lowercase())?;
        }
        for entry in shared {
            lists.share(entry.to_ascii_lowercase())?;
        }
        Ok(Self { lists: Some(Box::new(lists)) })
    }

    /// The same for one user: what `allow` does not name is refused too, and so is what `deny` names.
    /// What clients send of themselves to set up a connection (AUTH, HELLO, PING, SELECT, CLIENT SETINFO …) needs no
    /// allowance.
    ///
    /// # Errors
    /// Says in words which entry is an unknown category.
    pub fn restricted(&self, allow: Option<&BTreeSet<String>>, deny: &BTreeSet<String>) -> Result<Self, String> {
        let mut lists = self.lists.as_ref().map_or_else(Lists::standard, |lists| (**lists).clone());
        if let Some(allow) = allow {
            lists.allow_only(allow)?;
        }
        for entry in deny {
            lists.refuse(&entry.to_ascii_lowercase())?;
        }
        Ok(Self { lists: Some(Box::new(lists)) })
    }

    /// What `frame`, whose first argument is `name`, is by the table and the operator's lists.
    #[inline]
    #[must_use]
    pub fn apply(&self, frame: &[u8], name: &[u8]) -> Classified {
        let classified = classify(frame, name);
        match &self.lists {
            None => classified,
            Some(lists) => Classified { class: lists.class(classified, frame, name), ..classified },
        }
    }
}

impl Lists {
    fn empty() -> Self {
        Self {
            refused: vec![false; table::all().len()].into(),
            refused_unknown: BTreeSet::new(),
            shared_unknown: BTreeSet::new(),
            allowed_unknown: None,
        }
    }

    /// With what the table refuses.
    fn standard() -> Self {
        let mut lists = Self::empty();
        lists.refuse_all(table::all().iter().filter(|command| command.class == Class::Refused));
        lists
    }

    fn allow_only(&mut self, allow: &BTreeSet<String>) -> Result<(), String> {
        // Listed as if they were refused, then turned round.
        let mut listed = Self::empty();
        for entry in allow {
            listed.refuse(&entry.to_ascii_lowercase())?;
        }
        let is_missing = |command: &&Command| !listed.refused[usize::from(command.id)] && !is_free(command);
        self.refuse_all(table::all().iter().filter(is_missing));
        self.allowed_unknown = Some(listed.refused_unknown);
        Ok(())
    }

    fn refuse(&mut self, entry: &str) -> Result<(), String> {
        if let Some(category) = entry.strip_prefix('@') {
            let members = members(category).ok_or_else(|| format!("unknown category `{entry}`"))?;
            self.refuse_all(members.into_iter());
        } else if let Some(command) = table::find_full(entry) {
            self.refuse_all(std::iter::once(command).chain(command.subcommands()));
        } else {
            self.refused_unknown.insert(entry.to_owned());
        }
        Ok(())
    }

    fn refuse_all(&mut self, commands: impl Iterator<Item = &'static Command>) {
        for command in commands {
            self.refused[usize::from(command.id)] = true;
            // A container refused as a whole is refused with the subcommands that only its server knows.
            if command.is_container() {
                self.refused_unknown.insert(command.name.to_owned());
            }
        }
    }

    fn share(&mut self, entry: String) -> Result<(), String> {
        if table::find_full(&entry).is_some() {
            return Err(format!("`{entry}` is in the command table: only commands outside it can be listed as shared"));
        }
        self.shared_unknown.insert(entry);
        Ok(())
    }

    #[inline(never)]
    fn class(&self, classified: Classified, frame: &[u8], name: &[u8]) -> Class {
        let Some(command) = classified.command else { return self.class_of_unknown(classified.class, frame, name) };
        if classified.class == Class::Closed {
            Class::Closed
        } else if self.refused[usize::from(command.id)] {
            Class::Refused
        } else if classified.class == Class::Refused {
            UNREFUSED
        } else {
            classified.class
        }
    }

    /// A command outside the table is looked for by its name, and by its name with its first argument.
    fn class_of_unknown(&self, class: Class, frame: &[u8], name: &[u8]) -> Class {
        if name.len() > NAME_BYTES_MAX {
            return class;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let word = Arguments::new(frame).nth(1).filter(|word| word.len() <= NAME_BYTES_MAX);
        let full = word.map(|word| format!("{name}|{}", String::from_utf8_lossy(word).to_ascii_lowercase()));
        let among =
            |list: &BTreeSet<String>| list.contains(&name) || full.as_ref().is_some_and(|full| list.contains(full));
        let is_allowed = self.allowed_unknown.as_ref().is_none_or(among);
        if !is_allowed || among(&self.refused_unknown) {
            Class::Refused
        } else if class == Class::Refused {
            // Its container is refused by the table, but not by the operator.
            UNREFUSED
        } else if among(&self.shared_unknown) {
            Class::Shared
        } else {
            class
        }
    }
}

/// What clients send of themselves to set up a connection.
fn is_free(command: &Command) -> bool {
    let is_administration = command.categories.has(AclCategories::ADMIN.and(AclCategories::DANGEROUS));
    command.flags.has(Flags::NO_AUTH)
        || command.class == Class::Answered(Answered::AclWhoami)
        || (command.categories.has(AclCategories::CONNECTION) && !is_administration)
}

/// The category of the commands on vector sets, which no server tells in `COMMAND`.
const VECTOR_SETS: &str = "vectorset";

/// The commands of a category, by its name without the `@`. Where the server that the table is from told a module's
/// command no category, its flags say whether it reads or writes.
fn members(category: &str) -> Option<Vec<&'static Command>> {
    let of = |is_member: &dyn Fn(&Command) -> bool| table::all().iter().filter(|command| is_member(command)).collect();
    if category == VECTOR_SETS {
        return Some(of(&|command| VECTOR_SET_COMMANDS.contains(&command.name)));
    }
    let wanted = AclCategories::named(category)?;
    let flag = match wanted {
        AclCategories::READ => Flags::READONLY,
        AclCategories::WRITE => Flags::WRITE,
        _ => Flags::NONE,
    };
    Some(of(&|command| {
        command.categories.has(wanted) || (command.categories == AclCategories::NONE && command.flags.has(flag))
    }))
}

const VECTOR_SET_COMMANDS: [&str; 13] = [
    "vadd",
    "vcard",
    "vdim",
    "vemb",
    "vgetattr",
    "vinfo",
    "vismember",
    "vlinks",
    "vrandmember",
    "vrange",
    "vrem",
    "vsetattr",
    "vsim",
];

/// Where a command goes that the table refuses and the operator does not.
const UNREFUSED: Class = Class::Pinned(Pinned::Admin);

/// Longer words are in no list.
const NAME_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn class(policy: &Policy, line: &str) -> Class {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut frame = format!("*{}\r\n", words.len()).into_bytes();
        for word in &words {
            frame.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        policy.apply(&frame, words[0].as_bytes()).class
    }

    fn denying(names: &[&str]) -> Policy {
        Policy::new(None, &set(names), &set(&[])).unwrap()
    }

    #[test]
    fn no_list_changes_nothing() {
        let policy = Policy::new(None, &set(&[]), &set(&[])).unwrap();
        assert!(policy.lists.is_none());
        assert_eq!(class(&policy, "GET k"), Class::Shared);
        assert_eq!(class(&policy, "SHUTDOWN"), Class::Refused);
    }

    #[test]
    fn deny_adds_to_what_is_refused() {
        let policy = denying(&["KEYS", "config|set", "object", "ft.search", "foo|bar"]);
        for line in
            ["keys *", "CONFIG SET a b", "OBJECT", "OBJECT FREQ k", "OBJECT FOO k", "Foo Bar", "SHUTDOWN", "MODULE FOO"]
        {
            assert_eq!(class(&policy, line), Class::Refused, "{line}");
        }
        assert_eq!(class(&policy, "CONFIG GET a"), Class::Pinned(Pinned::Admin));
        assert_eq!(class(&policy, "GET k"), Class::Shared);
        assert_eq!(class(&policy, "FOO baz"), Class::Pinned(Pinned::Admin));
        assert_eq!(class(&policy, "POST /"), Class::Closed);
    }

    #[test]
    fn deny_takes_categories() {
        let policy = denying(&["@dangerous"]);
        assert_eq!(class(&policy, "KEYS *"), Class::Refused);
        assert_eq!(class(&policy, "CONFIG GET a"), Class::Refused);
        assert_eq!(class(&policy, "CLIENT KILL a"), Class::Refused);
        assert_eq!(class(&policy, "CLIENT ID"), class(&Policy::default(), "CLIENT ID"));
    }

    #[test]
    fn a_category_has_the_commands_of_modules_too() {
        for (category, refused, untouched) in [
            ("@vectorset", "VSIM k ELE x", "SADD k x"),
            ("@write", "VADD k VALUES 1 1 x", "VCARD k"),
            ("@read", "VCARD k", "VADD k VALUES 1 1 x"),
        ] {
            let policy = denying(&[category]);
            assert_eq!(class(&policy, refused), Class::Refused, "{category}");
            assert_ne!(class(&policy, untouched), Class::Refused, "{category}");
        }
    }

    #[test]
    fn refuse_replaces_what_is_refused() {
        let policy = Policy::new(Some(&set(&["debug"])), &set(&["keys"]), &set(&[])).unwrap();
        assert_eq!(class(&policy, "DEBUG SLEEP 0"), Class::Refused);
        assert_eq!(class(&policy, "KEYS *"), Class::Refused);
        for line in ["SHUTDOWN", "MODULE LIST", "MODULE FOO", "SCRIPT DEBUG yes", "SWAPDB 0 1"] {
            assert_eq!(class(&policy, line), Class::Pinned(Pinned::Admin), "{line}");
        }
    }

    #[test]
    fn unknown_commands_share_a_lane_when_told_so() {
        let policy = Policy::new(None, &set(&["mymodule.drop"]), &set(&["mymodule.get", "object|new"])).unwrap();
        assert_eq!(class(&policy, "MyModule.Get k"), Class::Shared);
        assert_eq!(class(&policy, "OBJECT NEW k"), Class::Shared);
        assert_eq!(class(&policy, "MYMODULE.DROP"), Class::Refused);
        assert_eq!(class(&policy, "MYMODULE.SET k"), Class::Pinned(Pinned::Admin));
        assert_eq!(class(&policy, "CONFIG FOO"), Class::Pinned(Pinned::Admin));
    }

    #[test]
    fn a_user_may_what_is_allowed_and_not_denied() {
        let general = Policy::new(None, &set(&["dbsize"]), &set(&["module.get"])).unwrap();
        let user = general.restricted(Some(&set(&["@read", "config|get", "module.get"])), &set(&["keys"])).unwrap();
        for line in
            ["SET k v", "KEYS *", "DBSIZE", "CONFIG SET a b", "CONFIG", "MODULE.SET k", "CLIENT LIST", "EVAL x 0"]
        {
            assert_eq!(class(&user, line), Class::Refused, "{line}");
        }
        for line in
            ["GET k", "CONFIG GET a", "MODULE.GET k", "AUTH x", "HELLO 3", "PING", "SELECT 1", "CLIENT SETINFO a b"]
        {
            assert_eq!(class(&user, line), class(&general, line), "{line}");
            assert_ne!(class(&user, line), Class::Refused, "{line}");
        }
        let denied = general.restricted(None, &set(&["@write"])).unwrap();
        assert_eq!(class(&denied, "SET k v"), Class::Refused);
        assert_eq!(class(&denied, "SHUTDOWN"), Class::Refused);
        assert_eq!(class(&denied, "DBSIZE"), Class::Refused);
        assert_eq!(class(&denied, "GET k"), Class::Shared);
        assert_eq!(class(&denied, "MODULE.SET k"), Class::Pinned(Pinned::Admin));
        assert!(general.restricted(Some(&set(&["@reed"])), &set(&[])).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let unknown = Policy::new(None, &set(&["@dangerus"]), &set(&[])).unwrap_err();
        assert_eq!(unknown, "unknown category `@dangerus`");
        let known = Policy::new(None, &set(&[]), &set(&["config|set"])).unwrap_err();
        assert!(known.starts_with("`config|set` is in the command table"), "{known}");
    }
}
