//! What was changed at run time, written into the file: comments and order stay, and the file is whole at any moment.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::groups::GROUP_DEFAULT;
use super::{Addition, Origin};

/// What operators changed at run time, and the file does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unsaved {
    /// Weights as they are now, by the backend's name.
    pub weights: Vec<(String, f64)>,
    /// Names of backends that are no more.
    pub removed: Vec<String>,
    /// Backends that it does not have, or has no more, each with the name of its group.
    pub added: Vec<(String, Addition)>,
}

/// A key, or a whole backend, that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// As in `backend.west.weight`; `backend.west` is the whole of it.
    pub key: String,
    /// What the file had; `none`: the default, or no such backend.
    pub old: String,
    /// What it has now; `none`: no such backend.
    pub new: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Somebody edited it.
    #[error("{} has changed since it was read: RELOAD first, or what was written there would be lost", .0.display())]
    Changed(PathBuf),
    /// It cannot be read, written or replaced.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is no TOML any more, or would be none.
    #[error("{} cannot be edited: {cause}", path.display())]
    Edit {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// Names what a file contained.
pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Writes what differs into the file that the configuration came from; it keeps its mode and its owner.
///
/// # Errors
/// The file was edited since, or cannot be written. Then it is as it was.
pub fn save(origin: &Origin, unsaved: &Unsaved) -> Result<(Vec<Edit>, Origin), SaveError> {
    // Behind a symbolic link the file itself is replaced, not the link.
    let failed = |cause| SaveError::Write { path: origin.path.clone(), cause };
    let path = fs::canonicalize(&origin.path).map_err(failed)?;
    let text = fs::read_to_string(&path).map_err(failed)?;
    if digest(&text) != origin.digest {
        return Err(SaveError::Changed(origin.path.clone()));
    }
    let (edited, edits) = edit(&text, unsaved).map_err(|cause| SaveError::Edit { path: origin.path.clone(), cause })?;
    if !edits.is_empty() {
        replace(&path, &edited).map_err(failed)?;
    }
    Ok((edits, Origin { path: origin.path.clone(), digest: digest(&edited) }))
}

fn edit(text: &str, unsaved: &Unsaved) -> Result<(String, Vec<Edit>), String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    let mut edits = Vec::new();
    let Some(backends) = document.get_mut("backend") else {
        return Err("it has no [[backend]]: they came from the command line".to_owned());
    };
    let missing = |name: &str| format!("it has no backend '{name}': it came from the command line");
    for (name, weight) in &unsaved.weights {
        let backend = find(backends, name).ok_or_else(|| missing(name))?;
        edits.extend(set_weight(backend, name, *weight));
    }
    for name in &unsaved.removed {
        let old = find(backends, name).ok_or_else(|| missing(name))?;
        let old = old.get("url").and_then(Item::as_str).unwrap_or_default();
        let old = super::address::without_password(old);
        remove(backends, name);
        edits.push(Edit { key: format!("backend.{name}"), old, new: "none".to_owned() });
    }
    for (group, addition) in &unsaved.added {
        add(backends, group, addition)?;
        let key = format!("backend.{}", addition.name);
        edits.push(Edit { key, old: "none".to_owned(), new: addition.url.clone() });
    }
    let edited = document.to_string();
    edited.parse::<toml::Table>().map_err(|error| error.message().to_owned())?;
    Ok((edited, edits))
}

fn is_named(table: &dyn TableLike, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

fn remove(backends: &mut Item, name: &str) {
    match backends {
        Item::ArrayOfTables(tables) => tables.retain(|table| !is_named(table, name)),
        Item::Value(Value::Array(values)) => {
            values.retain(|value| value.as_inline_table().is_none_or(|table| !is_named(table, name)));
        }
        _ => {}
    }
}

/// Behind the others, in the form that they have.
fn add(backends: &mut Item, group: &str, addition: &Addition) -> Result<(), String> {
    let Addition { name, url, weight, password_file } = addition;
    let mut keys: Vec<(&str, Value)> = vec![("name", name.into()), ("url", url.into())];
    keys.extend((group != GROUP_DEFAULT).then(|| ("group", group.into())));
    keys.extend(weight.map(|weight| ("weight", weight.into())));
    keys.extend(password_file.as_ref().map(|path| ("password_file", path.into())));
    if backends.as_array().is_some_and(toml_edit::Array::is_empty) {
        *backends = Item::ArrayOfTables(ArrayOfTables::new());
    }
    match backends {
        Item::ArrayOfTables(tables) => tables.push(keys.into_iter().collect::<Table>()),
        Item::Value(Value::Array(values)) => values.push(keys.into_iter().collect::<InlineTable>()),
        _ => return Err("'backend' is no list of tables".to_owned()),
    }
    Ok(())
}

fn find<'d>(backends: &'d mut Item, name: &str) -> Option<&'d mut dyn TableLike> {
    let is_named = |table: &dyn TableLike| is_named(table, name);
    match backends {
        Item::ArrayOfTables(tables) => {
            tables.iter_mut().find(|table| is_named(*table)).map(|table| table as &mut dyn TableLike)
        }
        Item::Value(Value::Array(values)) => {
            let mut tables = values.iter_mut().filter_map(Value::as_inline_table_mut);
            tables.find(|table| is_named(*table)).map(|table| table as &mut dyn TableLike)
        }
        _ => None,
    }
}

fn set_weight(backend: &mut dyn TableLike, name: &str, weight: f64) -> Option<Edit> {
    const DEFAULT: f64 = 1.0;
    let written =
        backend.get("weight").and_then(|item| item.as_float().or(item.as_integer().map(|whole| whole as f64)));
    if (written.unwrap_or(DEFAULT) - weight).abs() <= f64::EPSILON {
        return None;
    }
    let mut value = Value::from(weight);
    match backend.get_mut("weight").and_then(Item::as_value_mut) {
        Some(old) => {
            // The comment behind it is a part of its decoration.
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => drop(backend.insert("weight", Item::Value(value))),
    }
    let old = written.map_or_else(|| "none".to_owned(), |old| old.to_string());
    Some(Edit { key: format!("backend.{name}.weight"), old, new: weight.to_string() })
}

/// Whole or not at all: a file beside it takes its place, with its mode and its owner.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // One that must not be written is not replaced either.
    let metadata = OpenOptions::new().write(true).open(path)?.metadata()?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".saving");
    let beside = path.with_file_name(name);
    let written = write_beside(&beside, text, &metadata).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // What is left of it says nothing to anybody.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_beside(beside: &Path, text: &str, like: &fs::Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(text.as_bytes())?;
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) != (like.uid(), like.gid()) {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# the two\n[[backend]] # first\nname = 'east'\nurl = 'redis://a'\nweight = 2 # heavy\n\n\
        [[backend]]\nname = 'west'\nurl = 'redis://b'\n# the end\n";

    fn weights(east: f64, west: f64) -> Unsaved {
        Unsaved { weights: vec![("east".to_owned(), east), ("west".to_owned(), west)], ..Unsaved::default() }
    }

    fn north(weight: Option<f64>) -> Addition {
        let (name, url) = ("north".to_owned(), "redis://c".to_owned());
        Addition { name, url, weight, password_file: Some("/run/secret".to_owned()) }
    }

    fn written(text: &str) -> (tempfile::TempDir, Origin) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover.toml");
        fs::write(&path, text).unwrap();
        (folder, Origin { path, digest: digest(text) })
    }

    #[test]
    fn only_what_differs_is_written_and_comments_stay() {
        let (_folder, origin) = written(FILE);
        fs::set_permissions(&origin.path, Permissions::from_mode(0o640)).unwrap();
        let (edits, after) = save(&origin, &weights(3.5, 0.25)).unwrap();
        let keys: Vec<_> = edits.iter().map(|edit| (edit.key.as_str(), edit.old.as_str(), edit.new.as_str())).collect();
        assert_eq!(keys, [("backend.east.weight", "2", "3.5"), ("backend.west.weight", "none", "0.25")]);
        let text = fs::read_to_string(&origin.path).unwrap();
        assert_eq!(
            text,
            "# the two\n[[backend]] # first\nname = 'east'\nurl = 'redis://a'\nweight = 3.5 # heavy\n\n\
             [[backend]]\nname = 'west'\nurl = 'redis://b'\nweight = 0.25\n# the end\n"
        );
        assert_eq!(fs::metadata(&origin.path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(save(&after, &weights(3.5, 0.25)).unwrap(), (Vec::new(), after.clone()));
        assert_eq!(fs::read_dir(origin.path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn inline_tables_are_edited_too() {
        let (text, edits) =
            edit("backend = [{ name = 'east', weight = 1.0 }, { name = 'west' }]\n", &weights(1.0, 4.0)).unwrap();
        assert_eq!(text, "backend = [{ name = 'east', weight = 1.0 }, { name = 'west' , weight = 4.0 }]\n");
        assert_eq!(edits.len(), 1);
    }

    #[test]
    fn backends_come_and_go_in_the_form_that_the_others_have() {
        let change = |group: &str, weight| Unsaved {
            removed: vec!["west".to_owned()],
            added: vec![(group.to_owned(), north(weight))],
            ..Unsaved::default()
        };
        let (text, edits) = edit(FILE, &change("default", Some(2.0))).unwrap();
        assert_eq!(
            text,
            "# the two\n[[backend]] # first\nname = 'east'\nurl = 'redis://a'\nweight = 2 # heavy\n\n\
             [[backend]]\nname = \"north\"\nurl = \"redis://c\"\nweight = 2.0\npassword_file = \"/run/secret\"\n# the end\n"
        );
        let told: Vec<_> = edits.iter().map(|edit| format!("{}: {} → {}", edit.key, edit.old, edit.new)).collect();
        assert_eq!(told, ["backend.west: redis://b → none", "backend.north: none → redis://c"]);
        let inline = "backend = [{ name = 'east', url = 'redis://a' }, { name = 'west', url = 'redis://:x@b' }]\n";
        let (text, edits) = edit(inline, &change("eu", None)).unwrap();
        assert_eq!(
            text,
            "backend = [{ name = 'east', url = 'redis://a' }, { name = \"north\", url = \"redis://c\", \
             group = \"eu\", password_file = \"/run/secret\" }]\n"
        );
        assert!(!edits[0].old.contains('x'), "{edits:?}");
    }

    #[test]
    fn what_cannot_be_written_is_left_alone() {
        let (_folder, origin) = written(FILE);
        fs::write(&origin.path, format!("{FILE}# edited\n")).unwrap();
        assert!(matches!(save(&origin, &weights(9.0, 1.0)), Err(SaveError::Changed(_))));
        let (_folder, origin) = written("[[backend]]\nname = 'north'\nurl = 'redis://c'\n");
        let error = save(&origin, &weights(9.0, 1.0)).unwrap_err().to_string();
        assert!(error.contains("no backend 'east'"), "{error}");
        let gone = Origin { path: "/nowhere/handover.toml".into(), digest: [0; 32] };
        assert!(matches!(save(&gone, &weights(9.0, 1.0)), Err(SaveError::Write { .. })));
    }

    #[test]
    fn a_link_stays_a_link() {
        let (folder, origin) = written(FILE);
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&origin.path, &link).unwrap();
        save(&Origin { path: link.clone(), ..origin.clone() }, &weights(7.0, 1.0)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&origin.path).unwrap().contains("weight = 7.0 # heavy"));
    }
}
