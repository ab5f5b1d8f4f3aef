//! The page as HTML: one document without scripts, fonts or pictures from elsewhere.

use std::fmt::Write;

use serde_json::Value;

use super::productpage::Part;
use crate::apps::Identity;

pub(super) const TITLE: &str = "The Comedy of Errors";
pub(super) const SUMMARY: &str = "Two pairs of identical twins, separated in a shipwreck, arrive in the same town \
    on the same day, and nobody can tell which of them answered. Among Shakespeare's early plays it is the shortest \
    and the most farcical: its humour lives on mistaken identity, which a service mesh, at least, can prove.";

const STYLE: &str = include_str!("page.css");

/// Everything the page shows.
pub(super) struct Page<'a> {
    /// Who made the page.
    pub me: &'a Identity,
    /// Who signed in.
    pub user: Option<&'a str>,
    /// What details answered.
    pub details: &'a Part,
    /// What reviews answered.
    pub reviews: &'a Part,
}

impl Page<'_> {
    pub(super) fn to_html(&self) -> String {
        let mut html = String::with_capacity(16 << 10);
        // Writing to a String cannot fail.
        let _ = self.write(&mut html);
        html
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{TITLE} · Bookinfo</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header><a class=\"brand\" href=\"/productpage\"><span class=\"mark\"></span>Bookinfo</a>{}</header>\n<main>\n",
            self.session()
        )?;
        write!(
            out,
            "<section class=\"hero\">\n<div class=\"cover\" aria-hidden=\"true\"><b>The Comedy<br>of Errors</b>\
             <i>William Shakespeare</i></div>\n<div><p class=\"eyebrow\">A play in five acts</p>\n<h1>{TITLE}</h1>\n\
             <p class=\"summary\">{}</p></div>\n</section>\n",
            escaped(SUMMARY)
        )?;
        out.push_str("<div class=\"columns\">\n");
        self.write_reviews(out)?;
        self.write_details(out)?;
        out.push_str("</div>\n");
        self.write_way(out)?;
        out.push_str("</main>\n</body>\n</html>\n");
        Ok(())
    }

    fn session(&self) -> String {
        match self.user {
            Some(user) => {
                format!(
                    "<form action=\"/logout\"><span>{}</span><button>Sign out</button></form>",
                    escaped(user)
                )
            }
            None => {
                "<form method=\"post\" action=\"/login\"><input name=\"username\" placeholder=\"User name\" \
                     aria-label=\"User name\" required maxlength=\"64\"><button>Sign in</button></form>"
                    .to_owned()
            }
        }
    }

    fn write_reviews(&self, out: &mut String) -> std::fmt::Result {
        out.push_str("<section class=\"card\" id=\"reviews\">\n<h2>Reviews</h2>\n");
        match self.reviews {
            Err(why) => failure(out, "Reviews", why)?,
            Ok(answer) => {
                for review in answer["reviews"].as_array().into_iter().flatten() {
                    let rating = &review["rating"];
                    out.push_str("<blockquote>\n");
                    match (rating["stars"].as_u64(), rating["error"].as_str()) {
                        (Some(stars), _) => {
                            write_stars(out, stars.min(5) as usize, rating["color"].as_str())?
                        }
                        (None, Some(error)) => {
                            let reason = rating["reason"].as_str().unwrap_or_default();
                            writeln!(
                                out,
                                "<p class=\"missing\" title=\"{}\">{}</p>",
                                escaped(reason),
                                escaped(error)
                            )?;
                        }
                        (None, None) => {}
                    }
                    let (text, who) = (word(&review["text"]), word(&review["reviewer"]));
                    write!(out, "<p>{text}</p>\n<footer>{who}</footer>\n</blockquote>\n")?;
                }
                served_by(out, "reviews", &answer["served_by"])?;
            }
        }
        out.push_str("</section>\n");
        Ok(())
    }

    fn write_details(&self, out: &mut String) -> std::fmt::Result {
        out.push_str("<section class=\"card\" id=\"details\">\n<h2>Details</h2>\n");
        match self.details {
            Err(why) => failure(out, "Details", why)?,
            Ok(book) => {
                out.push_str("<dl>\n");
                for (label, field) in [
                    ("Author", "author"),
                    ("Year", "year"),
                    ("Type", "type"),
                    ("Pages", "pages"),
                    ("Publisher", "publisher"),
                    ("Language", "language"),
                    ("ISBN-10", "ISBN-10"),
                    ("ISBN-13", "ISBN-13"),
                ] {
                    writeln!(out, "<div><dt>{label}</dt><dd>{}</dd></div>", word(&book[field]))?;
                }
                out.push_str("</dl>\n");
                served_by(out, "details", &book["served_by"])?;
            }
        }
        out.push_str("</section>\n");
        Ok(())
    }

    /// The way the request took: which cluster and pod answered each part.
    fn write_way(&self, out: &mut String) -> std::fmt::Result {
        out.push_str("<section class=\"card way\" id=\"way\">\n<h2>Who answered</h2>\n<ol>\n");
        hop(out, 0, "productpage", Ok(&self.me.json()))?;
        hop(
            out,
            1,
            "details",
            self.details
                .as_ref()
                .map(|d| &d["served_by"])
                .map_err(String::as_str),
        )?;
        hop(
            out,
            1,
            "reviews",
            self.reviews
                .as_ref()
                .map(|r| &r["served_by"])
                .map_err(String::as_str),
        )?;
        if let Ok(reviews) = self.reviews {
            let failed = reviews["reviews"][0]["rating"]["reason"].as_str();
            match (failed, &reviews["ratings_served_by"]) {
                (Some(why), _) => hop(out, 2, "ratings", Err(why))?,
                (None, Value::Null) => {}
                (None, by) => hop(out, 2, "ratings", Ok(by))?,
            }
        }
        out.push_str("</ol>\n<p class=\"hint\">Reload to see the balance between versions and clusters.</p>\n</section>\n");
        Ok(())
    }
}

fn write_stars(out: &mut String, stars: usize, colour: Option<&str>) -> std::fmt::Result {
    let colour = if colour == Some("red") { "red" } else { "black" };
    let (full, empty) = ("★".repeat(stars), "★".repeat(5 - stars));
    writeln!(
        out,
        "<p class=\"stars {colour}\" role=\"img\" aria-label=\"{stars} of 5 stars\">{full}<span>{empty}</span></p>"
    )
}

fn failure(out: &mut String, part: &str, why: &str) -> std::fmt::Result {
    writeln!(
        out,
        "<div class=\"failure\" role=\"status\"><b>{part} are not available right now.</b>\
         <p>The rest of the page does not depend on them. The service said: <code>{}</code></p></div>",
        escaped(why)
    )
}

fn served_by(out: &mut String, service: &str, by: &Value) -> std::fmt::Result {
    if by.is_null() {
        return Ok(());
    }
    writeln!(
        out,
        "<p class=\"served\">{service} <em>{}</em> {}</p>",
        word(&by["version"]),
        cluster(by)
    )
}

fn hop(out: &mut String, depth: usize, service: &str, by: Result<&Value, &str>) -> std::fmt::Result {
    match by {
        Ok(by) => writeln!(
            out,
            "<li class=\"d{depth}\"><b>{service}</b><em>{}</em>{}<code>{}</code></li>",
            word(&by["version"]),
            cluster(by),
            word(&by["pod"])
        ),
        Err(why) => writeln!(
            out,
            "<li class=\"d{depth} lost\"><b>{service}</b><em>no answer</em><code>{}</code></li>",
            escaped(why)
        ),
    }
}

/// A cluster's name in a colour of its own, the same on every page.
fn cluster(by: &Value) -> String {
    let name = by["cluster"].as_str().unwrap_or_default();
    if name.is_empty() {
        return String::new();
    }
    let hue = name
        .bytes()
        .fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)))
        * 47
        % 360;
    format!(
        "<span class=\"cluster\" style=\"--hue:{hue}\">{}</span>",
        escaped(name)
    )
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => escaped(text),
        Value::Null => "–".to_owned(),
        other => escaped(&other.to_string()),
    }
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}
