// Listeners by event name.

/**
 * Most events that listeners may cause while one event is delivered, before other code runs: two listeners might trigger each
 * other for ever.
 */
const CAUSED_MAX = 1000;

export class Emitter<Events> {
    #listeners = new Map<keyof Events, Set<(event: never) => void>>();
    /** Events to deliver, in their order: an event caused by a listener is delivered after all listeners got the previous one. */
    readonly #queue: [keyof Events, Events[keyof Events]][] = [];
    #isTelling = false;

    /** Returns a function that removes the listener. */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
        const listeners = this.#listeners.get(name) ?? new Set();
        this.#listeners.set(name, listeners.add(listener));
        return () => void listeners.delete(listener);
    }

    emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        this.#queue.push([name, event]);
        if (!this.#isTelling) {
            this.#isTelling = true;
            this.#tellAll();
        }
    }

    #tellAll(): void {
        for (let told = 0; told <= CAUSED_MAX; told += 1) {
            const next = this.#queue.shift();
            if (!next) {
                this.#isTelling = false;
                return;
            }
            this.#tell(...next);
        }
        setTimeout(() => this.#tellAll(), 1);
    }

    #tell<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        const listeners = this.#listeners.get(name);
        // Copied, so that a listener added by another one does not get this event.
        for (const listener of [...(listeners ?? [])]) {
            if (!listeners?.has(listener)) {
                continue;
            }
            try {
                (listener as (event: Events[Name]) => void)(event);
            } catch (error) {
                // An error of a listener is reported as uncaught, and affects neither other listeners nor the connection.
                queueMicrotask(() => {
                    throw error;
                });
            }
        }
    }
}
