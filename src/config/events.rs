//! `[events]`: where records of events go beside the log, the console and HTTP.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::address::is_local;
use super::file::{SHORTEST, read_secret};
use super::section::{Section, closest};
use super::{HttpUrl, secure};
use crate::logic::record::EventKind;
use crate::tls::ClientFiles;

const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Where records go (`[events]`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSettings {
    /// Each record is posted there.
    pub webhook: Option<WebhookSettings>,
    /// Started for each record.
    pub command: Option<CommandSettings>,
    /// Only these kinds go to the two; `None`: all.
    pub kinds: Option<Vec<EventKind>>,
}

/// An address that takes records; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where.
    pub url: HttpUrl,
    /// For one attempt, connecting included.
    pub timeout: Duration,
    /// Signs each request.
    pub secret: Option<String>,
    /// How it is verified, exactly if it is `https://`.
    pub tls: Option<ClientFiles>,
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.to_string();
        formatter
            .debug_struct("WebhookSettings")
            .field("url", &url)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A program that takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSettings {
    /// Its absolute path.
    pub program: String,
    /// Its arguments, as they are: no shell takes them apart.
    pub arguments: Vec<String>,
    /// After which it is killed.
    pub timeout: Duration,
}

pub(super) fn events(section: &mut Section<'_>) -> EventSettings {
    let webhook = webhook(section);
    let command = command(section);
    let kinds = section.list("kinds", kind).filter(|kinds| !kinds.is_empty());
    EventSettings { webhook, command, kinds }
}

fn webhook(section: &mut Section<'_>) -> Option<WebhookSettings> {
    let url = section.text("webhook", |text| if text.is_empty() { Ok(None) } else { HttpUrl::parse(text).map(Some) });
    let url = url.flatten();
    let mut timeout = WEBHOOK_TIMEOUT;
    section.duration("webhook_timeout", SHORTEST, &mut timeout);
    let secret = secret(section);
    let tls = secure::of_webhook(section, url.as_ref().is_some_and(|url| url.is_secure));
    let Some(url) = url else {
        if secret.is_some() {
            section.problem("webhook_secret_file", None, "has a meaning only with a webhook");
        }
        return None;
    };
    if !url.is_secure && !is_local(&url.address()) {
        let path = section.path_of("webhook");
        section.notes.warn(&path, "is not https://: who listens on the way reads the records");
    }
    Some(WebhookSettings { url, timeout, secret, tls })
}

fn secret(section: &mut Section<'_>) -> Option<String> {
    let mut warning = None;
    let secret = section.text("webhook_secret_file", |path| {
        if path.is_empty() {
            return Ok(None);
        }
        let text = read_secret(Path::new(path), &mut warning)?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(Some(secret.to_owned())) }
    });
    if let Some(message) = warning {
        let path = section.path_of("webhook_secret_file");
        section.notes.warn(&path, &message);
    }
    secret.flatten()
}

fn command(section: &mut Section<'_>) -> Option<CommandSettings> {
    let words = section.list("command", |word| {
        if word.contains('\0') { Err("has a zero byte in it".to_owned()) } else { Ok(word.to_owned()) }
    });
    let mut timeout = COMMAND_TIMEOUT;
    section.duration("command_timeout", SHORTEST, &mut timeout);
    let mut words = words?.into_iter();
    let program = words.next()?;
    if !Path::new(&program).is_absolute() {
        let message = "must begin with the absolute path of a program: it is started without a shell";
        section.problem("command", Some(format!("\"{program}\"")), message);
    }
    Some(CommandSettings { program, arguments: words.collect(), timeout })
}

fn kind(text: &str) -> Result<EventKind, String> {
    let offered = EventKind::ALL.into_iter().filter(|kind| !matches!(kind, EventKind::Outcomes | EventKind::Lost));
    let names: Vec<&str> = offered.clone().map(EventKind::label).collect();
    offered.into_iter().find(|kind| kind.label() == text).ok_or_else(|| {
        let hint = closest(text, &names).map_or_else(String::new, |known| format!(": did you mean \"{known}\"?"));
        format!("is not a kind of event{hint}")
    })
}
