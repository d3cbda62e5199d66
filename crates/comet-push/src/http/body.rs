//! The bodies of push calls: read to their end, but kept only up to the longest body that may be pushed. The gate
//! limits their time and their memory.

use std::error::Error;

use axum::body::{Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use tokio_stream::StreamExt;
use tonic::Status;

use crate::call_limits::{CallLimits, body_too_long};

/// Most bytes that are read and discarded of a body that is too long. A caller that is still writing when the
/// connection is closed would not read the reason. That includes callers with `Expect: 100-continue`: some proxies send
/// it, and do not wait.
const REST_MAX: u64 = 64 << 20;

/// Reads bodies within their bounds.
pub(super) struct Bodies {
    length_max: usize,
}

impl Bodies {
    pub(super) fn new(bounds: CallLimits) -> Self {
        Self { length_max: bounds.frame_max }
    }

    /// The whole body of `request`. A body that would not be read to its end is refused before it is sent, if the caller
    /// waits for `100 Continue`.
    ///
    /// # Errors
    /// If it is too long, breaks off, or does not arrive in time.
    pub(super) async fn read(&self, request: Request) -> Result<Bytes, Status> {
        let max = self.length_max as u64;
        // 0 if it is not announced.
        let announced = request.body().size_hint().exact().unwrap_or(0);
        if announced > max + REST_MAX && request.headers().contains_key(EXPECT) {
            return Err(body_too_long(announced, self.length_max));
        }
        let mut kept = Vec::new();
        let mut length = 0;
        let mut chunks = request.into_body().into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // Whatever ended it: a retry would be refused as well.
                Err(_) if announced > max => return Err(body_too_long(announced, self.length_max)),
                Err(error) => return Err(broken_off(&error)),
            };
            length += chunk.len() as u64;
            if announced.max(length) > max {
                kept = Vec::new();
                if length > max + REST_MAX {
                    let least = format_args!("at least {}", announced.max(length));
                    return Err(body_too_long(least, self.length_max));
                }
            } else {
                // Exact, because doubling would exceed the bound.
                kept.reserve_exact(chunk.len());
                kept.extend_from_slice(&chunk);
            }
        }
        match announced.max(length) {
            length if length > max => Err(body_too_long(length, self.length_max)),
            _ => Ok(kept.into()),
        }
    }
}

/// The gate's refusal, or an error about an incomplete body.
fn broken_off(error: &(dyn Error + 'static)) -> Status {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(status) = error.downcast_ref::<Status>() {
            return status.clone();
        }
        cause = error.source();
    }
    Status::invalid_argument(format!("the body broke off: {error}"))
}
