//! Admission: what the API server asks before it keeps an object (15017).
//!
//! ```text
//!   API server ─ HTTPS, certificate of the control plane ─┬─ POST /inject[/...] ─▶ manifests::inject ─▶ JSON patch
//!                                                         └─ POST /validate      ─▶ api::validate ────▶ yes, or no and why
//! ```
//!
//! What a pod says of itself and cannot mean is refused, in words. What is wrong with us is no reason to refuse
//! anything: settings that cannot be read leave the last good ones in force, an object of a kind that is not
//! ours passes, and whatever is being deleted may go.

mod meters;
mod mutate;
mod objects;
mod review;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

use std::sync::Arc;

use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::server::{Request, Response, Router};

use self::meters::Meters;
pub use self::objects::OwnObjects;
pub use self::review::{Malformed, Review};
pub use self::server::serve;
pub use self::settings::{InjectionSettings, Source};

/// What answers the API server.
pub struct Webhook<S> {
    settings: InjectionSettings<S>,
    meters: Meters,
}

impl<S: Source> Webhook<S> {
    /// A webhook whose settings come from the objects of the control plane.
    pub fn new(source: S, metrics: &Metrics) -> Self {
        Self {
            settings: InjectionSettings::new(source),
            meters: Meters::new(metrics),
        }
    }

    /// The paths.
    pub fn router(self: &Arc<Self>) -> Router {
        let inject = |path: &str, router: Router| {
            let webhook = Arc::clone(self);
            router.post(path, move |request: Request| {
                std::future::ready(webhook.on_inject(&request))
            })
        };
        let validate = |path: &str, router: Router| {
            let webhook = Arc::clone(self);
            router.post(path, move |request: Request| {
                std::future::ready(webhook.on_validate(&request))
            })
        };
        let router = inject("/inject", Router::new());
        let router = inject("/inject/*", router);
        let router = validate("/validate", router);
        validate("/validate/*", router)
    }

    fn on_inject(&self, request: &Request) -> Response {
        self.meters.requests.inc();
        let timer = std::time::Instant::now();
        let response = match Review::parse(request.body()) {
            Ok(review) => {
                let variables = mutate::Variables::of(request.uri().path());
                review.answer(&mutate::admit(&review, &self.settings, &variables, &self.meters))
            }
            Err(malformed) => {
                self.meters.failures.inc();
                malformed.answer()
            }
        };
        self.meters.time.observe(timer.elapsed().as_secs_f64());
        response
    }

    fn on_validate(&self, request: &Request) -> Response {
        match Review::parse(request.body()) {
            Ok(review) => review.answer(&validate::admit(&review, &self.meters)),
            Err(malformed) => {
                self.meters.malformed.inc();
                malformed.answer()
            }
        }
    }
}
