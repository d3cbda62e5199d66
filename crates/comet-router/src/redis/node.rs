//! One Redis server: its connection, which reconnects by itself, the deadline of a call, and the
//! pause after failed connections in which no call is tried.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, RedisResult, ScriptInvocation,
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::error::StoreError;

/// The pause after the first failed connection, in which calls fail at once. Each further failure
/// doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A Redis server and the connection to it, which the first call makes.
pub(super) struct RedisNode {
    /// Address and database, without a password. It is also the node's name on the ring.
    name: String,
    client: Client,
    deadline: Duration,
    connection: OnceCell<ConnectionManager>,
    pause: Mutex<Option<Pause>>,
}

/// A pause after failed connections, so that not every call tries an unavailable server.
struct Pause {
    /// The error of the last connection.
    sentence: String,
    length: Duration,
    until: Instant,
}

impl RedisNode {
    /// The server at `url`. It does not connect yet.
    pub(super) fn new(url: &str, deadline: Duration) -> Result<Self, StoreError> {
        let bad = |sentence: String| StoreError::BadAddress { sentence };
        let info = url
            .into_connection_info()
            .map_err(|error| bad(format!("an address of a session store is no URL: {error}")))?;
        let name = format!("{}/{}", info.addr, info.redis.db);
        let client = Client::open(info).map_err(|error| bad(format!("{name}: {error}")))?;
        Ok(Self { name, client, deadline, connection: OnceCell::new(), pause: Mutex::default() })
    }

    /// Address and database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script, with `until` as its deadline.
    pub(super) async fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
        until: Instant,
    ) -> Result<T, StoreError> {
        self.call(until, async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs a pipeline, with `until` as its deadline.
    pub(super) async fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        until: Instant,
    ) -> Result<T, StoreError> {
        self.call(until, async |mut connection| pipeline.query_async(&mut connection).await).await
    }

    /// Runs `work`, with `until` as its deadline. Runs it once more if the connection was lost, so
    /// that no call fails because a server was restarted or closed an idle connection.
    /// [`scripts`](super::scripts) describes the effect of running a script twice. During a pause
    /// it fails at once.
    async fn call<T, F>(
        &self,
        until: Instant,
        work: impl Fn(ConnectionManager) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if let Some(sentence) = self.failure_of_pause() {
            return Err(StoreError::Failed { node: self.name.clone(), sentence });
        }
        let attempts = async {
            let connection = self.connection.get_or_try_init(|| self.connect()).await?;
            match work(connection.clone()).await {
                Err(error) if is_lost(&error) => work(connection.clone()).await,
                answer => answer,
            }
        };
        let Ok(answer) = timeout_at(until, attempts).await else {
            let node = self.name.clone();
            return Err(StoreError::Deadline { node, deadline: self.deadline });
        };
        self.record(answer.as_ref().err().filter(|error| is_lost(error)));
        answer.map_err(|error| StoreError::Failed {
            node: self.name.clone(),
            sentence: error.to_string(),
        })
    }

    /// The error that caused the pause, while it lasts.
    fn failure_of_pause(&self) -> Option<String> {
        let pause = self.pause.lock().expect("nothing panics while it holds the lock");
        let pause = pause.as_ref().filter(|pause| Instant::now() < pause.until)?;
        Some(pause.sentence.clone())
    }

    /// Records the result of a call: a lost connection begins or extends the pause, anything else
    /// ends it.
    fn record(&self, lost: Option<&RedisError>) {
        let mut pause = self.pause.lock().expect("nothing panics while it holds the lock");
        let Some(error) = lost else {
            *pause = None;
            return;
        };
        let now = Instant::now();
        let length = match &*pause {
            // Calls that fail at the same time count as one failure.
            Some(pause) if now < pause.until => return,
            Some(pause) => (pause.length * 2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        *pause = Some(Pause { sentence: error.to_string(), length, until: now + length });
    }

    async fn connect(&self) -> RedisResult<ConnectionManager> {
        // The kernel detects a server that disappears silently; then the manager reconnects.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(self.deadline.max(Duration::from_secs(1))))
            .set_user_timeout(self.deadline);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(self.deadline)
            .set_number_of_retries(0)
            .set_tcp_settings(tcp);
        ConnectionManager::new_with_config(self.client.clone(), config).await
    }
}

/// Whether the connection was lost or could not be made.
fn is_lost(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout()
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("RedisNode").field(&self.name).finish()
    }
}
