/** An upload as the proxy's admin listener shows it. */
export interface UploadState {
  readonly target: string;
  readonly phase: string;
  /** Bytes that the proxy has committed. */
  readonly offset: number;
  readonly length?: number;
}

/** A request as the origin of the demo saw it. */
export interface OriginView {
  readonly method: string;
  readonly target: string;
  readonly contentLength?: string;
  readonly size: number;
  /** Of the body, once it has arrived completely. */
  readonly sha256?: string;
}

/** Something that happened in the demo, as its pages get it. */
export type DemoEvent =
  | { readonly kind: 'state'; readonly line: 'up' | 'down'; readonly proxy: 'up' | 'down'; readonly rate: number }
  | { readonly kind: 'cut'; readonly connections: number; readonly outageMs: number }
  | { readonly kind: 'restored' }
  | { readonly kind: 'killed'; readonly pid: number; readonly outageMs: number }
  | { readonly kind: 'started'; readonly pid: number; readonly tookMs: number }
  | { readonly kind: 'uploads'; readonly uploads: readonly UploadState[] }
  | ({ readonly kind: 'origin-began' | 'origin-received' } & OriginView);
