// Listeners by the name of their event.

export class Emitter<Events> {
    #listeners = new Map<keyof Events, Set<(event: never) => void>>();

    /** Returns what takes the listener away again. */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
        const listeners = this.#listeners.get(name) ?? new Set();
        this.#listeners.set(name, listeners.add(listener));
        return () => void listeners.delete(listener);
    }

    emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        const listeners = this.#listeners.get(name);
        // Copied: a listener that is added by another one is not told of this event.
        for (const listener of [...(listeners ?? [])]) {
            if (!listeners?.has(listener)) {
                continue;
            }
            try {
                (listener as (event: Events[Name]) => void)(event);
            } catch (error) {
                // A mistake of a listener is reported as uncaught, and disturbs neither others nor the connection.
                queueMicrotask(() => {
                    throw error;
                });
            }
        }
    }
}
