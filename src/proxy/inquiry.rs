//! Questions over all workers of a group: CLIENT LIST, KILL, UNBLOCK, PAUSE and UNPAUSE.

use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use super::hub::Hub;
use super::unblock;
use crate::logic::multiplexer::{Finding, Inquiry, SessionKey};

/// A question to one worker's hub.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    inquiry: Inquiry,
    /// Where the answer goes.
    reply: oneshot::Sender<Finding>,
}

/// Asks every worker, one after the other, and tells the client what they found together.
pub(super) async fn ask(hub: Rc<Hub>, session: SessionKey, inquiry: Inquiry) {
    let mut sum = Finding::default();
    for worker in hub.inquiries().iter() {
        let (reply, answer) = oneshot::channel();
        if worker.send(Question { inquiry: inquiry.clone(), reply }).await.is_ok()
            && let Ok(finding) = answer.await
        {
            sum.add(finding);
        }
    }
    hub.turn(|machine, now| machine.on_findings(session, &inquiry, sum, now));
}

/// Answers what any worker asks of this one.
pub(super) async fn answer(hub: Rc<Hub>, mut questions: mpsc::Receiver<Question>) {
    let stopping = hub.lifecycle.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            question = questions.recv() => match question {
                Some(question) => answer_one(&hub, question),
                None => return,
            },
        }
    }
}

/// What a backend must be asked for is answered by a task of its own, so that nobody else waits for it.
fn answer_one(hub: &Rc<Hub>, question: Question) {
    let finding = hub.turn(|machine, now| machine.on_inquiry(&question.inquiry, now));
    match (finding.blocked, &question.inquiry) {
        (Some((backend, client_id)), &Inquiry::Unblock { with_error, .. }) => {
            let (this, reply) = (hub.clone(), question.reply);
            let unblocking = async move {
                let finding = match unblock::one(&this, backend, client_id, with_error).await {
                    Ok(was_blocked) => Finding { count: u64::from(was_blocked), ..Finding::default() },
                    Err(cause) => Finding { failure: Some(cause), ..Finding::default() },
                };
                // Who asked may be gone by now.
                drop(reply.send(finding));
            };
            hub.lifecycle.start_local("unblock one", unblocking);
        }
        _ => drop(question.reply.send(finding)),
    }
}
