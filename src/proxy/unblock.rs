//! `CLIENT UNBLOCK` at a backend, for blocked commands at a planned switch and for clients that ask for it, on a
//! connection of the backend's configured identity.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::timeout;
use tracing::debug;

use super::hub::Hub;
use crate::channels::BackendId;
use crate::command::refusal::printed;
use crate::config::Backend;
use crate::logic::multiplexer::Profile;
use crate::net::dial;
use crate::net::stream::Stream;
use crate::resp::encode;

/// Unblocks every connection that was noted for this backend, then ends; the next tick notes those still blocked.
pub(super) async fn run(hub: Rc<Hub>, id: BackendId, backend: Arc<Backend>) {
    let (stream, _) = dial::dial(&backend, Profile::default()).await;
    let clients = hub.take_blocked(id);
    if let Some(stream) = stream
        && let Err(error) = ask(stream, &clients).await
    {
        debug!(backend = backend.name, %error, "CLIENT UNBLOCK failed");
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

/// Unblocks one connection; whether it was blocked.
///
/// # Errors
/// The backend could not be reached, or refuses the command, in its words.
pub(super) async fn one(hub: &Hub, id: BackendId, client_id: i64, with_error: bool) -> Result<bool, String> {
    let backend = hub.backend(id).ok_or("it is not known any more")?;
    let (Some(mut stream), _) = dial::dial(&backend, Profile::default()).await else {
        return Err("it cannot be reached".to_owned());
    };
    let mut request = BytesMut::new();
    let reason = if with_error { "ERROR" } else { "TIMEOUT" };
    encode::request(&mut request, &["CLIENT", "UNBLOCK", &client_id.to_string(), reason]);
    let exchange = async {
        dial::write_all(&mut stream, &request).await?;
        dial::read_reply(&mut stream, &mut BytesMut::new()).await
    };
    match timeout(backend.connect_timeout, exchange).await {
        Ok(Ok((reply, _))) => match reply.as_ref() {
            b":1\r\n" => Ok(true),
            b":0\r\n" => Ok(false),
            other => Err(printed(other.strip_prefix(b"-").unwrap_or(other)).trim_end().to_owned()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:?}", backend.connect_timeout)),
    }
}
