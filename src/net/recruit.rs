//! Backends on their way into a group: each gets a number that no other ever had, and what its handshakes need.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::dial::Endpoint;
use crate::config::{Addition, Backend, BackendTls};
use crate::logic::route::BackendId;
use crate::tls::{self, FileProblem, Keeper, Owner};

/// A backend that is to join a group.
#[derive(Clone, Debug)]
pub struct Recruit {
    /// Its number.
    pub id: BackendId,
    /// Where it is, and how it is spoken to.
    pub endpoint: Arc<Endpoint>,
    /// It is added at run time, with these words.
    pub addition: Option<Arc<Addition>>,
}

/// Why a backend cannot be recruited.
#[derive(Debug, thiserror::Error)]
pub enum RecruitError {
    /// Its certificates cannot be used.
    #[error("cannot use the certificates: {0}")]
    Certificates(FileProblem),
    /// This process has had as many backends as it can count.
    #[error("this process has had {} backends and can number no more: restart it", u16::MAX)]
    Numbers,
}

/// Numbers backends, and has their certificates kept. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Recruiter {
    given: Arc<AtomicU32>,
    certificates: Keeper,
}

impl Recruiter {
    /// One whose backends' certificates are kept by `certificates`.
    #[must_use]
    pub fn new(certificates: Keeper) -> Self {
        Self { given: Arc::default(), certificates }
    }

    /// A backend with a number of its own.
    ///
    /// # Errors
    /// Its certificates cannot be used, or the numbers have run out.
    pub fn recruit(&self, backend: Backend, addition: Option<Addition>) -> Result<Recruit, RecruitError> {
        let tls = self.tls_of(&backend).map_err(RecruitError::Certificates)?;
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let id = u16::try_from(number).map_err(|_| RecruitError::Numbers)?;
        let endpoint = Arc::new(Endpoint { backend: Arc::new(backend), tls });
        Ok(Recruit { id: BackendId(id), endpoint, addition: addition.map(Arc::new) })
    }

    fn tls_of(&self, backend: &Backend) -> Result<Option<tls::Client>, FileProblem> {
        let Some(BackendTls { files, server_name }) = &backend.tls else { return Ok(None) };
        self.certificates.client(Owner::Backend(backend.name.clone()), files, server_name.clone()).map(Some)
    }
}
