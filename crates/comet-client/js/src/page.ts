// Events of a page, and of its network. Without a page, as in Node, there are none.

export interface PageHandlers {
    /** The connection may be broken without a sign of it. */
    doubted(): void;
    /** A good moment to connect. */
    woke(): void;
    /** The page is left, perhaps into the page cache; an open WebSocket would prevent that. */
    hidden(): void;
    /** The page has come back from the page cache. */
    shown(): void;
}

/** Whether a browser may take this for a hidden page, and let its timers wait for up to a minute. */
export const isPage = (): boolean => typeof document === "object";

/** Returns what ends the watch. */
export function watchPage(handlers: PageHandlers): () => void {
    const watch = new AbortController();
    const listen = (target: EventTarget, event: string, listener: () => void) =>
        target.addEventListener(event, listener, { signal: watch.signal });
    if (typeof addEventListener === "function") {
        listen(globalThis, "online", handlers.woke);
        // Browsers also report this for hosts that have only a loopback or a tunnel. So it only casts doubt on the
        // connection, and stops no attempt.
        listen(globalThis, "offline", handlers.doubted);
        listen(globalThis, "pagehide", handlers.hidden);
        listen(globalThis, "pageshow", handlers.shown);
    }
    if (typeof document === "object") {
        listen(document, "resume", handlers.woke);
        listen(document, "visibilitychange", () => {
            if (document.visibilityState === "visible") {
                handlers.woke();
            }
        });
    }
    return () => watch.abort();
}
