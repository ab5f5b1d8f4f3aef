//! `ratings`: stars by reviewer; `POST /ratings/ID` replaces them in this pod's memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use serde_json::json;

use crate::apps::Identity;
use crate::apps::http::{self as web, App, Request, Response};

/// Books whose ratings are remembered, and reviewers of one book, at most.
const MOST: usize = 1000;

type Stars = BTreeMap<String, u8>;

/// The sample.
#[derive(Debug)]
pub struct Ratings {
    me: Identity,
    posted: Mutex<BTreeMap<u32, Stars>>,
}

impl Ratings {
    /// Ratings that say they are `me`.
    pub fn new(me: Identity) -> Self {
        Self {
            me,
            posted: Mutex::default(),
        }
    }

    fn answer_stars(&self, id: u32, stars: &Stars) -> Response {
        web::json(
            StatusCode::OK,
            &json!({ "id": id, "ratings": stars, "served_by": self.me.json() }),
        )
    }
}

impl App for Ratings {
    async fn answer(&self, request: Request, _: SocketAddr) -> Response {
        let path = request.uri().path().to_owned();
        if path == "/health" {
            return web::json(StatusCode::OK, &json!({ "status": "Ratings is healthy" }));
        }
        let Some(id) = path
            .strip_prefix("/ratings/")
            .and_then(|id| id.parse::<u32>().ok())
        else {
            return web::json(
                StatusCode::BAD_REQUEST,
                &json!({ "error": "please provide numeric product ID" }),
            );
        };
        if request.method() == Method::POST {
            let body = match web::body(request.into_body()).await {
                Ok(body) => body,
                Err(refusal) => return refusal,
            };
            let valid = |s: &Stars| s.len() <= MOST && s.values().all(|stars| (1..=5).contains(stars));
            let Some(stars) = serde_json::from_slice::<Stars>(&body).ok().filter(valid) else {
                let error = "please provide valid ratings JSON, such as {\"Reviewer1\": 5}; stars are 1 to 5";
                return web::json(StatusCode::BAD_REQUEST, &json!({ "error": error }));
            };
            let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
            if posted.len() < MOST || posted.contains_key(&id) {
                posted.insert(id, stars.clone());
            }
            return self.answer_stars(id, &stars);
        }
        let posted = self
            .posted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        let stars = posted.unwrap_or_else(|| {
            [("Reviewer1", 5), ("Reviewer2", 4)]
                .map(|(r, s)| (r.to_owned(), s))
                .into()
        });
        self.answer_stars(id, &stars)
    }
}
