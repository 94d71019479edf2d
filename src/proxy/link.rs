//! The task that opens one backend connection.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::drill;
use super::hub::Hub;
use crate::logic::identity::IdentityId;
use crate::logic::multiplexer::{Dial, DialOutcome};
use crate::net::dial::{self, Dialled, Endpoint};
use crate::net::socket::Socket;

/// Opens a connection and hands it to the hub.
pub(super) async fn open(hub: Rc<Hub>, wanted: Dial, endpoint: Arc<Endpoint>) {
    let (stream, outcome) = match drill::dial(&hub, &wanted, &endpoint).await {
        Some(played) => played,
        None => drill::dialled(&hub, &wanted, dial(&hub, &wanted, &endpoint).await),
    };
    let socket = stream.map(Socket::new).transpose();
    let opened =
        socket.and_then(|socket| hub.open_link(wanted.link, socket.map(|socket| (socket, wanted.backend)), outcome));
    if let Err(error) = opened {
        fail(&hub, &wanted, &error);
    }
}

/// The connection broke, or the process has no room for it, between the handshake and its first use.
fn fail(hub: &Rc<Hub>, wanted: &Dial, error: &io::Error) {
    let outcome = DialOutcome::Failed(error.to_string());
    let opened = hub.open_link(wanted.link, None, outcome);
    debug_assert!(opened.is_ok(), "nothing is to be watched");
}

/// An identity that was forgotten meanwhile must never become the user of the backend's URL.
async fn dial(hub: &Hub, wanted: &Dial, endpoint: &Endpoint) -> Dialled {
    match hub.login(wanted.profile.identity) {
        None if wanted.profile.identity != IdentityId::CONFIGURED => {
            (None, DialOutcome::RefusedIdentity(Bytes::from_static(b"-NOAUTH Authentication required.\r\n")))
        }
        login => dial::dial_as(endpoint, wanted.profile, login.as_deref()).await,
    }
}
