/**
 * Small texts that this browser remembers. What its storage doesn't take, being blocked or full, is remembered until the
 * page is left.
 */

class Memory {
  #held = new Map();

  /** `storage()` answers where texts are kept; where site data is blocked, asking already throws. */
  constructor(storage) {
    this.storage = storage;
  }

  /** The text of a name, or null. */
  get(name) {
    if (this.#held.has(name)) return this.#held.get(name);
    try {
      return this.storage().getItem(name);
    } catch {
      return null;
    }
  }

  set(name, text) {
    try {
      this.storage().setItem(name, text);
      this.#held.delete(name);
    } catch {
      this.#held.set(name, text);
    }
  }
}

export const ofBrowser = new Memory(() => localStorage);
export const ofTab = new Memory(() => sessionStorage);
