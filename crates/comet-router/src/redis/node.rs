//! One Redis server: its connection, which comes back by itself, the deadline of a call, and the
//! pause in which a server that is down is left alone.

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

use crate::StoreError;

/// How long calls fail at once after the first failed connection; doubled by each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A Redis server and the connection to it, made by the first call.
pub(super) struct Node {
    /// Address and database, which is also the node's name on the ring; never a password.
    name: String,
    client: Client,
    deadline: Duration,
    connection: OnceCell<ConnectionManager>,
    down: Mutex<Option<Down>>,
}

/// Why and how long nothing is tried: a server that is down is not asked again by every call.
struct Down {
    sentence: String,
    pause: Duration,
    until: Instant,
}

impl Node {
    /// The server at `url`; connects to nothing yet.
    pub(super) fn new(url: &str, deadline: Duration) -> Result<Self, StoreError> {
        let bad = |sentence: String| StoreError::BadAddress { sentence };
        let info = url
            .into_connection_info()
            .map_err(|error| bad(format!("an address of a session store is no URL: {error}")))?;
        let name = format!("{}/{}", info.addr, info.redis.db);
        let client = Client::open(info).map_err(|error| bad(format!("{name}: {error}")))?;
        Ok(Self { name, client, deadline, connection: OnceCell::new(), down: Mutex::default() })
    }

    /// Address and database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script until `until`.
    pub(super) async fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
        until: Instant,
    ) -> Result<T, StoreError> {
        self.call(until, async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs a pipeline until `until`.
    pub(super) async fn pipeline<T: FromRedisValue + Send>(
        &self,
        pipeline: &Pipeline,
        until: Instant,
    ) -> Result<T, StoreError> {
        self.call(until, async |mut connection| pipeline.query_async(&mut connection).await).await
    }

    /// Does `work` until `until`, and once more if the connection turned out to be gone: a server
    /// that was restarted, or that closes idle connections, costs no call. What doing it twice means
    /// is said in [`scripts`](super::scripts). While the server is known to be down, fails at once.
    async fn call<T, F>(
        &self,
        until: Instant,
        work: impl Fn(ConnectionManager) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if let Some(sentence) = self.known_down() {
            return Err(StoreError::Failed { node: self.name.clone(), sentence });
        }
        let twice = async {
            let connection = self.connection.get_or_try_init(|| self.connect()).await?;
            match work(connection.clone()).await {
                Err(error) if is_lost(&error) => work(connection.clone()).await,
                answer => answer,
            }
        };
        let Ok(answer) = timeout_at(until, twice).await else {
            let node = self.name.clone();
            return Err(StoreError::Deadline { node, deadline: self.deadline });
        };
        self.note(answer.as_ref().err().filter(|error| is_lost(error)));
        answer.map_err(|error| StoreError::Failed {
            node: self.name.clone(),
            sentence: error.to_string(),
        })
    }

    /// Why the server is not to be asked now.
    fn known_down(&self) -> Option<String> {
        let down = self.down.lock().expect("nothing panics while it holds this");
        let down = down.as_ref().filter(|down| Instant::now() < down.until)?;
        Some(down.sentence.clone())
    }

    /// Begins or lengthens the pause after a lost connection, and ends it after anything else.
    fn note(&self, lost: Option<&RedisError>) {
        let mut down = self.down.lock().expect("nothing panics while it holds this");
        let Some(error) = lost else {
            *down = None;
            return;
        };
        let now = Instant::now();
        let pause = match &*down {
            // Calls that failed together are one failure.
            Some(down) if now < down.until => return,
            Some(down) => (down.pause * 2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        *down = Some(Down { sentence: error.to_string(), pause, until: now + pause });
    }

    async fn connect(&self) -> RedisResult<ConnectionManager> {
        // A peer that is gone without a word is noticed by the kernel; then the manager reconnects.
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

/// Whether there is no connection, or no longer.
fn is_lost(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout()
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Node").field(&self.name).finish()
    }
}
