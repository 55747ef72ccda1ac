/** A file that moves with its upload, or all of the upload's when there is no name. */
export interface PeerPath {
  readonly id: string;
  readonly name?: string;
}

/** What has to be there before an upload may change its node. */
export interface FileList {
  readonly files: readonly { readonly name: string; readonly size: number }[];
  /** The offset its clients may have been shown; 0 when none was noted. */
  readonly promised: number;
}

const PATH = /^\/\.peer\/([A-Za-z0-9_-]{20,64})(?:\/([A-Za-z0-9_-][A-Za-z0-9._-]{0,127}))?$/;

/** Undefined when it names neither. */
export function readPeerPath(target: string): PeerPath | undefined {
  const [, id, name] = PATH.exec(target) ?? [];
  return id === undefined ? undefined : { id, ...(name === undefined ? {} : { name }) };
}

export function writePeerPath({ id, name }: PeerPath): string {
  return name === undefined ? `/.peer/${id}` : `/.peer/${id}/${name}`;
}
