//! From Envoy's HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use isthmus_xds::envoy::{core, hcm as e, types};

use super::{ClientCertHeader, Codec, HttpManager, Routes, Tracing, access_log};
use crate::config::field::{bool_or, duration_or, name, number_or, optional_text, percent, timeout, variant};
use crate::config::http_filter::wire as http_filter;
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::config::route::{action, wire::route_table};

const STREAM_IDLE: Duration = Duration::from_secs(300);
const CONNECTION_IDLE: Duration = Duration::from_secs(3600);
const DRAIN: Duration = Duration::from_secs(5);
/// Envoy's default and bound of `max_request_headers_kb`.
const HEADER_KB: u32 = 60;
const MAX_HEADER_KB: u32 = 8192;
/// The upgrade HTTP/2 names by a method instead.
const MAX_STREAMS: u32 = u32::MAX >> 1;

/// Reads the manager of a filter chain.
pub fn wire(h: &e::HttpConnectionManager, listener: &Arc<str>) -> Result<HttpManager, Refusal> {
    refuse_set!(h; original_ip_detection_extensions, early_header_mutation_extensions, skip_xff_append, via,
        always_set_request_id_in_response, forward_client_cert_matcher, request_id_extension, local_reply_config,
        strip_matching_host_port, path_normalization_options, strip_trailing_host_dot, http3_protocol_options,
        scheme_header_transformation, append_x_forwarded_port);
    if bool_or(&h.add_user_agent, false) {
        return Err(Refusal::unsupported("add_user_agent"));
    }
    if matches!(
        h.strip_port_mode,
        Some(e::http_connection_manager::StripPortMode::StripAnyHostPort(true))
    ) {
        return Err(Refusal::unsupported("strip_any_host_port"));
    }
    escaped_slashes(h)?;
    let empty = core::HttpProtocolOptions::default();
    let common = h.common_http_protocol_options.as_ref().unwrap_or(&empty);
    let idle_timeout = common_options(common).at("common_http_protocol_options")?;
    let header_kb = number_or(&h.max_request_headers_kb, HEADER_KB);
    if !(1..=MAX_HEADER_KB).contains(&header_kb) {
        return Err(Refusal::new(
            "max_request_headers_kb",
            format!("{header_kb} must be from 1 to {MAX_HEADER_KB}"),
        ));
    }
    let mut upgrades = Vec::new();
    for (i, u) in h.upgrade_configs.iter().enumerate() {
        if !u.filters.is_empty() {
            return Err(Refusal::unsupported("filters")).nth("upgrade_configs", i);
        }
        let kind = action::upgrade(&u.upgrade_type, false).nth("upgrade_configs", i)?;
        if bool_or(&u.enabled, true) {
            upgrades.push(kind);
        }
    }
    use e::http_connection_manager::ServerHeaderTransformation as S;
    let server = variant::<S>("server_header_transformation", h.server_header_transformation)?;
    if server == S::AppendIfAbsent {
        return Err(Refusal::unsupported("server_header_transformation"));
    }
    Ok(HttpManager {
        stat_prefix: h.stat_prefix.as_str().into(),
        codec: codec(h.codec_type)?,
        routes: routes(h.route_specifier.as_ref(), listener)?,
        filters: http_filter::chain(&h.http_filters)?,
        client_cert: client_cert(h)?,
        use_remote_address: bool_or(&h.use_remote_address, false),
        trusted_hops: h.xff_num_trusted_hops,
        upgrades,
        stream_idle_timeout: timeout(
            "stream_idle_timeout",
            h.stream_idle_timeout.as_ref(),
            Some(STREAM_IDLE),
        )?,
        request_timeout: timeout("request_timeout", h.request_timeout.as_ref(), None)?,
        idle_timeout,
        headers_timeout: timeout(
            "request_headers_timeout",
            h.request_headers_timeout.as_ref(),
            None,
        )?,
        drain_timeout: duration_or("drain_timeout", h.drain_timeout.as_ref(), DRAIN)?,
        max_header_bytes: header_kb as usize * 1024,
        max_concurrent_streams: h.http2_protocol_options.as_ref().map_or(MAX_STREAMS, |o| {
            number_or(&o.max_concurrent_streams, MAX_STREAMS).clamp(1, MAX_STREAMS)
        }),
        server_name: optional_text(&h.server_name),
        server_header_pass_through: server == S::PassThrough,
        normalize_path: bool_or(&h.normalize_path, false),
        merge_slashes: h.merge_slashes,
        generate_request_id: bool_or(&h.generate_request_id, true),
        preserve_external_request_id: h.preserve_external_request_id,
        accept_http_10: h.http_protocol_options.as_ref().is_some_and(|o| o.accept_http_10),
        access_logs: access_log::wire(&h.access_log)?,
        tracing: h.tracing.as_ref().map(tracing).transpose().at("tracing")?,
    })
}

/// A path that hides a slash could pass by an authorisation rule, so what is asked for must be done.
fn escaped_slashes(h: &e::HttpConnectionManager) -> Result<(), Refusal> {
    use e::http_connection_manager::PathWithEscapedSlashesAction as A;
    let field = "path_with_escaped_slashes_action";
    match variant::<A>(field, h.path_with_escaped_slashes_action)? {
        A::ImplementationSpecificDefault | A::KeepUnchanged => Ok(()),
        A::RejectRequest | A::UnescapeAndRedirect | A::UnescapeAndForward => Err(Refusal::unsupported(field)),
    }
}

fn common_options(c: &core::HttpProtocolOptions) -> Result<Option<Duration>, Refusal> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as A;
    let underscores = "headers_with_underscores_action";
    if variant::<A>(underscores, c.headers_with_underscores_action)? != A::Allow {
        return Err(Refusal::unsupported(underscores));
    }
    refuse_set!(c; max_connection_duration);
    for (field, limit) in [("max_stream_duration", c.max_stream_duration.as_ref())] {
        if timeout(field, limit, None)?.is_some() {
            return Err(Refusal::unsupported(field));
        }
    }
    if number_or(&c.max_requests_per_connection, 0) > 0 {
        return Err(Refusal::unsupported("max_requests_per_connection"));
    }
    timeout("idle_timeout", c.idle_timeout.as_ref(), Some(CONNECTION_IDLE))
}

fn codec(v: i32) -> Result<Codec, Refusal> {
    use e::http_connection_manager::CodecType as C;
    Ok(match variant::<C>("codec_type", v)? {
        C::Auto => Codec::Auto,
        C::Http1 => Codec::Http1,
        C::Http2 => Codec::Http2,
        C::Http3 => return Err(Refusal::unsupported("codec_type")),
    })
}

fn routes(
    r: Option<&e::http_connection_manager::RouteSpecifier>,
    listener: &Arc<str>,
) -> Result<Routes, Refusal> {
    use e::http_connection_manager::RouteSpecifier as R;
    Ok(match r {
        Some(R::Rds(r)) => Routes::Rds(name("rds.route_config_name", &r.route_config_name)?),
        Some(R::RouteConfig(c)) => {
            let called = if c.name.is_empty() {
                listener
            } else {
                c.name.as_str()
            };
            Routes::Inline(Arc::new(route_table(c, called).at("route_config")?))
        }
        Some(R::ScopedRoutes(_)) => return Err(Refusal::unsupported("scoped_routes")),
        None => {
            return Err(Refusal::new(
                "route_specifier",
                "is required: rds or route_config",
            ));
        }
    })
}

fn client_cert(h: &e::HttpConnectionManager) -> Result<ClientCertHeader, Refusal> {
    use e::http_connection_manager::ForwardClientCertDetails as F;
    if let Some(d) = h.set_current_client_cert_details.as_ref() {
        let at = "set_current_client_cert_details";
        for (field, set) in [("cert", d.cert), ("chain", d.chain), ("issuer", d.issuer)] {
            if set {
                return Err(Refusal::unsupported(field)).at(at);
            }
        }
    }
    Ok(
        match variant::<F>("forward_client_cert_details", h.forward_client_cert_details)? {
            F::Sanitize => ClientCertHeader::Sanitize,
            F::ForwardOnly => ClientCertHeader::ForwardOnly,
            F::AppendForward => ClientCertHeader::AppendForward,
            F::SanitizeSet => ClientCertHeader::SanitizeSet,
            F::AlwaysForwardOnly => ClientCertHeader::AlwaysForwardOnly,
        },
    )
}

/// Trace context is made and passed on; a provider that spans would be reported to is not an error, since
/// no request is treated otherwise for it.
fn tracing(t: &e::http_connection_manager::Tracing) -> Result<Tracing, Refusal> {
    let share =
        |field: &str, p: &Option<types::Percent>| p.as_ref().map_or(Ok(1_000_000), |p| percent(field, p));
    Ok(Tracing {
        sampling: share("random_sampling", &t.random_sampling)?
            .min(share("overall_sampling", &t.overall_sampling)?),
    })
}
