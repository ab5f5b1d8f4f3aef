//! `reviews`: what people wrote. Version v1 has words alone; v2 adds black stars and v3 red ones, which it
//! gets from `ratings`. Without ratings the words are still there.

use std::net::SocketAddr;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{Backends, fetch, passed_on};
use crate::apps::Identity;
use crate::apps::http::{self as web, App, Request, Response};

const WORDS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    ),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

/// The sample.
#[derive(Debug)]
pub struct Reviews {
    me: Identity,
    backends: Backends,
}

impl Reviews {
    /// Reviews that say they are `me`; the version decides about stars.
    pub fn new(me: Identity, backends: Backends) -> Self {
        Self { me, backends }
    }

    fn colour(&self) -> Option<&'static str> {
        match self.me.version.as_str() {
            "v1" => None,
            "v3" => Some("red"),
            _ => Some("black"),
        }
    }

    async fn reviews(&self, id: u32, headers: &HeaderMap) -> Value {
        let mut answer = json!({
            "id": id.to_string(),
            "podname": self.me.pod,
            "clustername": self.me.cluster,
            "served_by": self.me.json(),
        });
        let ratings = match self.colour() {
            None => None,
            Some(colour) => {
                let ratings = fetch(
                    &self.backends.ratings,
                    &format!("/ratings/{id}"),
                    &passed_on(headers),
                )
                .await;
                if let Ok(ratings) = &ratings {
                    answer["ratings_served_by"] = ratings["served_by"].clone();
                }
                Some((colour, ratings))
            }
        };
        let reviews = WORDS.map(|(reviewer, text)| {
            let mut review = json!({ "reviewer": reviewer, "text": text });
            match &ratings {
                None => {}
                Some((colour, Ok(ratings))) => {
                    if let Some(stars) = ratings["ratings"][reviewer].as_u64() {
                        review["rating"] = json!({ "stars": stars.min(5), "color": colour });
                    }
                }
                Some((_, Err(why))) => {
                    let error = "Ratings service is currently unavailable";
                    review["rating"] = json!({ "error": error, "reason": why });
                }
            }
            review
        });
        answer["reviews"] = reviews.as_slice().into();
        answer
    }
}

impl App for Reviews {
    async fn answer(&self, request: Request, _: SocketAddr) -> Response {
        let path = request.uri().path();
        if path == "/health" {
            return web::json(StatusCode::OK, &json!({ "status": "Reviews is healthy" }));
        }
        match path
            .strip_prefix("/reviews/")
            .and_then(|id| id.parse::<u32>().ok())
        {
            Some(id) => web::json(StatusCode::OK, &self.reviews(id, request.headers()).await),
            None => web::json(
                StatusCode::BAD_REQUEST,
                &json!({ "error": "please provide numeric product id" }),
            ),
        }
    }
}
