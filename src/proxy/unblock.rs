//! `CLIENT UNBLOCK` for blocked commands at a planned switch, on a connection of the backend's configured identity.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tracing::debug;

use super::hub::Hub;
use crate::channels::BackendId;
use crate::logic::multiplexer::Profile;
use crate::net::dial::{self, Endpoint};
use crate::net::stream::Stream;
use crate::resp::encode;

/// Unblocks every connection that was noted for this backend, then ends; the next tick notes those still blocked.
pub(super) async fn run(hub: Rc<Hub>, id: BackendId, endpoint: Arc<Endpoint>) {
    let (stream, _) = dial::dial(&endpoint, Profile::default()).await;
    let clients = hub.take_blocked(id);
    if let Some(stream) = stream
        && let Err(error) = ask(stream, &clients).await
    {
        debug!(backend = endpoint.backend.name, %error, "CLIENT UNBLOCK failed");
    }
    hub.unblocked(id);
}

/// Sends the commands and waits for as many lines: what they say does not matter, the blocked command's reply does.
async fn ask(mut stream: Stream, clients: &[i64]) -> std::io::Result<()> {
    let mut request = BytesMut::new();
    for client in clients {
        encode::request(&mut request, &["CLIENT", "UNBLOCK", &client.to_string()]);
    }
    dial::write_all(&mut stream, &request).await?;
    let mut replies = BytesMut::new();
    for _ in clients {
        dial::read_reply(&mut stream, &mut replies).await?;
    }
    Ok(())
}
