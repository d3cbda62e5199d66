// What happens to a page, and to the network under it. Where there is no page, as in Node, nothing does.

export interface PageHandlers {
    /** A connection may have died unseen. */
    doubted(): void;
    /** It is a good moment to connect. */
    woke(): void;
    /** The page leaves, perhaps for the page cache, where an open WebSocket would keep it from. */
    hidden(): void;
    /** The page has come back from there. */
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
        // Browsers say so of hosts that only have a loopback or a tunnel. So it is a doubt, and stops no attempt.
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
