/** Another process group like ours, as far as anybody can tell from here. */
export interface NodeState {
  /** What uploads name as their `node`. */
  readonly name: string;
  /** Where its internal listener is reached by the others. */
  readonly url: string;
  /** How long it has not been heard of, by the store's clock. A few seconds mean nothing. */
  readonly silentMs: number;
  /** Its disk is full, or it is being emptied: nothing new should be moved to it. */
  readonly isLeaving: boolean;
}

/** Who is there. Each node says so again and again; what it last said stays known until it is forgotten. */
export interface Nodes {
  /** Undefined: never heard of, or forgotten. Fails with a `Fault`. */
  find(name: string): Promise<NodeState | undefined>;
  all(): Promise<readonly NodeState[]>;
  /** What is said of this node from now on; repeated until `close`. */
  announce(own: { readonly name: string; readonly url: string; readonly isLeaving: boolean }): Promise<void>;
  /** It will not come back, and no upload names it any more. */
  forget(name: string): Promise<void>;
  /** Says nothing any more; the last that was said stays known. */
  close(): Promise<void>;
}
