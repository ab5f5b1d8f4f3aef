//! Lets the HTTP/2 connection types spawn onto the worker's own `LocalSet`.

use std::future::Future;

use hyper::rt::Executor;

/// Spawns on the current thread.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
