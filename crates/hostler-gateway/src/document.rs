//! The OpenAPI document.

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::acp::http as acp;
use crate::routes::{
    conversations, events, host, job_logs, jobs, output, processes, run, schedules, sessions,
};
use crate::{ErrorBody, ws};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hostler",
        description = "The control API of an agent host. Served on the Unix socket `host.sock` of the state directory, where the \
            kernel says who asks, and on TCP, where a token is needed. Every failure is answered with an `ErrorBody`.",
        license(name = "Apache-2.0 OR MIT")
    ),
    security(("token" = [])),
    tags((name = "host"), (name = "sessions"), (name = "processes"), (name = "websockets"), (name = "events"), (name = "agents"), (name = "jobs"), (name = "acp"), (name = "ahp")),
    paths(
        host::health,
        host::openapi,
        host::show,
        host::shutdown,
        sessions::list,
        sessions::open,
        sessions::show,
        sessions::change,
        sessions::close,
        sessions::census,
        sessions::census_of_all,
        run::run,
        ws::exec::exec,
        processes::list_of,
        processes::start,
        processes::list,
        processes::show,
        processes::end,
        processes::wait,
        run::result,
        output::read,
        output::write,
        processes::signal,
        processes::resize,
        processes::keep,
        processes::members,
        ws::attach::attach,
        events::events,
        conversations::agents,
        conversations::pool,
        jobs::list,
        jobs::create,
        jobs::cancel_group,
        jobs::show,
        jobs::delete,
        jobs::wait,
        jobs::cancel,
        jobs::pause,
        jobs::resume,
        jobs::retry,
        jobs::answer,
        job_logs::logs,
        schedules::list,
        schedules::show,
        schedules::set,
        schedules::change,
        schedules::remove,
        schedules::run,
        conversations::list,
        conversations::open,
        conversations::show,
        conversations::load,
        conversations::prompt,
        conversations::cancel,
        conversations::answer,
        conversations::evict,
        conversations::reset,
        conversations::fork,
        conversations::transcript,
        acp::get,
        acp::post,
        acp::delete,
        crate::ahp::ws::get,
    ),
    components(schemas(ErrorBody)),
    modifiers(&Token)
)]
struct Api;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", scheme);
    }
}

/// The OpenAPI document of this API.
pub fn document() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
