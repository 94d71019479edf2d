//! Looks whether certificate files have changed, and puts new ones in force for the connections that come.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::load::{self, Contents, FileProblem};
use super::{Client, ClientConfigs, ClientFiles, Facts, Owner, Server, ServerFiles, date};

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(2);

/// The certificates of the whole process; one of its clones is to be run. What nobody uses any more is forgotten.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    kept: Arc<Mutex<Vec<Kept>>>,
    /// Asks for a look now.
    hurry: Arc<Notify>,
}

#[derive(Debug)]
struct Kept {
    source: Source,
    facts: Arc<Facts>,
    /// What is in force.
    contents: Contents,
    /// What was found last and could not be used.
    refused: Option<Contents>,
    is_warned: bool,
}

#[derive(Debug)]
enum Source {
    Server(ServerFiles, watch::Sender<Arc<ServerConfig>>),
    Client(ClientFiles, watch::Sender<ClientConfigs>),
}

impl Keeper {
    /// A listener's certificates.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn server(&self, owner: Owner, files: &ServerFiles) -> Result<Server, FileProblem> {
        let contents = load::contents(load::server_paths(files));
        let loaded = load::server(files, &contents)?;
        let (sender, config) = watch::channel(loaded.config);
        self.keep(Source::Server(files.clone(), sender), Facts::new(owner, loaded.not_after), contents);
        Ok(Server { config })
    }

    /// A backend's certificates.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn client(
        &self,
        owner: Owner,
        files: &ClientFiles,
        server_name: Option<ServerName<'static>>,
    ) -> Result<Client, FileProblem> {
        let contents = load::contents(load::client_paths(files));
        let loaded = load::client(files, &contents)?;
        let (sender, configs) = watch::channel(loaded.config);
        let facts = Facts::new(owner, loaded.not_after);
        self.keep(Source::Client(files.clone(), sender), facts.clone(), contents);
        Ok(Client { configs, server_name, facts })
    }

    fn keep(&self, source: Source, facts: Arc<Facts>, contents: Contents) {
        self.kept().push(Kept { source, facts, contents, refused: None, is_warned: false });
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each owner, for a scrape; of two with one name, that of the later.
    #[must_use]
    pub fn facts(&self) -> Vec<Arc<Facts>> {
        let mut facts: Vec<Arc<Facts>> = Vec::new();
        for kept in self.kept().iter().filter(|kept| kept.is_in_use()) {
            facts.retain(|earlier| earlier.owner != kept.facts.owner);
            facts.push(kept.facts.clone());
        }
        facts
    }

    /// Notify it to have the files looked at now.
    #[must_use]
    pub fn hurry(&self) -> Arc<Notify> {
        self.hurry.clone()
    }

    /// Looks at the files until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.hurry.notified() => {}
            }
            let mut kept = self.kept();
            kept.retain(Kept::is_in_use);
            kept.iter_mut().for_each(Kept::look);
        }
    }
}

impl Kept {
    fn is_in_use(&self) -> bool {
        match &self.source {
            Source::Server(_, sender) => !sender.is_closed(),
            Source::Client(_, sender) => !sender.is_closed(),
        }
    }

    /// A certificate and its key are two files: a pair that does not fit is looked at once more before it is reported.
    fn look(&mut self) {
        let found = match &self.source {
            Source::Server(files, _) => load::contents(load::server_paths(files)),
            Source::Client(files, _) => load::contents(load::client_paths(files)),
        };
        if found == self.contents {
            self.refused = None;
            return;
        }
        match self.put_in_force(&found) {
            Ok(not_after) => self.renewed(found, not_after),
            Err(problem) => self.refuse(found, &problem),
        }
    }

    fn put_in_force(&self, found: &Contents) -> Result<i64, FileProblem> {
        match &self.source {
            Source::Server(files, sender) => {
                let loaded = load::server(files, found)?;
                sender.send_replace(loaded.config);
                Ok(loaded.not_after)
            }
            Source::Client(files, sender) => {
                let loaded = load::client(files, found)?;
                sender.send_replace(loaded.config);
                Ok(loaded.not_after)
            }
        }
    }

    fn renewed(&mut self, found: Contents, not_after: i64) {
        self.contents = found;
        self.refused = None;
        self.facts.own_not_after.store(not_after, Relaxed);
        self.facts.reloads.fetch_add(1, Relaxed);
        let expires = if not_after == 0 { "never: none of our own".to_owned() } else { date(not_after) };
        info!(of = %self.facts.owner, expires, "new certificates are in force; connections that are open stay");
    }

    fn refuse(&mut self, found: Contents, problem: &FileProblem) {
        if self.refused.as_ref() != Some(&found) {
            self.refused = Some(found);
            self.is_warned = false;
        } else if !self.is_warned {
            self.is_warned = true;
            self.facts.failures.fetch_add(1, Relaxed);
            warn!(of = %self.facts.owner, %problem, "new certificates cannot be used: the old ones stay in force");
        }
    }
}
