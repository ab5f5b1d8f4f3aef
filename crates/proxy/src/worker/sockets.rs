//! The listening sockets of a worker.
//!
//! A socket belongs to its address, not to the listener's content: closing one of several `SO_REUSEPORT`
//! sockets resets the connections that wait in its queue, so a change of content never does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::Listener;
use crate::listener::{connection, socket};
use crate::state::Live;

use super::Worker;

/// Pause after an accept that failed for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(50);

/// Open sockets by address.
#[derive(Debug, Default)]
pub struct Sockets(HashMap<SocketAddr, Open>);

/// A socket and the listener that it accepts for at present.
#[derive(Debug)]
struct Open {
    listener: Rc<RefCell<Arc<Listener>>>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sockets {
    /// Opens what is new, hands new content to what stays, closes what is gone. Returns what could not be
    /// opened and why.
    pub fn reconcile(&mut self, cx: &Rc<Worker>, live: &Live) -> Vec<(Arc<str>, String)> {
        let wanted: HashMap<SocketAddr, &Arc<Listener>> = live
            .listeners
            .iter()
            .filter(|l| l.bind)
            .map(|l| (l.address, l))
            .collect();
        self.0.retain(|address, _| wanted.contains_key(address));
        let mut failed = Vec::new();
        for (address, listener) in wanted {
            if let Some(open) = self.0.get(&address) {
                *open.listener.borrow_mut() = listener.clone();
                continue;
            }
            match socket::bind(address) {
                Ok(socket) => {
                    let slot = Rc::new(RefCell::new(listener.clone()));
                    let task = tokio::task::spawn_local(accept(cx.clone(), socket, slot.clone()));
                    self.0.insert(address, Open { listener: slot, task });
                }
                Err(error) => {
                    tracing::error!(listener = %listener.name, %address, %error, "cannot listen");
                    failed.push((
                        listener.name.clone(),
                        format!("cannot listen on {address}: {error}"),
                    ));
                }
            }
        }
        failed
    }

    /// Closes all.
    pub fn close(&mut self) {
        self.0.clear();
    }
}

async fn accept(cx: Rc<Worker>, socket: TcpListener, slot: Rc<RefCell<Arc<Listener>>>) {
    loop {
        match socket.accept().await {
            Ok((tcp, peer)) => {
                let listener = slot.borrow().clone();
                let open = Counted::new(&cx);
                let cx = cx.clone();
                tokio::task::spawn_local(async move {
                    connection::serve(cx, listener, tcp, peer).await;
                    drop(open);
                });
            }
            // The client is gone already.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Counts a connection while it lives.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(cx: &Rc<Worker>) -> Self {
        cx.connections.set(cx.connections.get() + 1);
        Self(cx.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get().saturating_sub(1));
    }
}
