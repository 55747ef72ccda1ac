/** The state of a node (one installation with its own disk) as the store knows it. */
export interface NodeState {
  /** The value of `node` in the uploads of this node. */
  readonly name: string;
  /** The URL of its peer listener. */
  readonly url: string;
  /** Time since its last announcement, by the store's clock. A few seconds are normal. */
  readonly silentMs: number;
  /** Its disk is full or it is being drained: no uploads should be moved to it. */
  readonly isLeaving: boolean;
}

/**
 * The nodes that share a store. Each announces itself periodically; its last announcement is kept until it is
 * forgotten.
 */
export interface Nodes {
  /** Undefined for a node that never announced itself or was forgotten. Rejects with a `Fault`. */
  find(name: string): Promise<NodeState | undefined>;
  all(): Promise<readonly NodeState[]>;
  /** Announces this node now and periodically until `close`. */
  announce(own: { readonly name: string; readonly url: string; readonly isLeaving: boolean }): Promise<void>;
  /** Removes a node that will not come back and that no upload names. */
  forget(name: string): Promise<void>;
  /** Ends the announcements; the last one is kept. */
  close(): Promise<void>;
}
