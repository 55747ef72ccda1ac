import type * as z from 'zod';

/** Settings that belong together, by their keys. */
export type Shape = Readonly<Record<string, z.ZodType>>;

/** The same settings, each with its default: for the top, where routes inherit from. */
export function withDefaults<S extends Shape>(
  settings: S,
  defaults: { readonly [K in keyof S]: z.input<S[K]> },
): { [K in keyof S]: z.ZodPrefault<S[K]> } {
  const entries = Object.entries(settings).map(([key, setting]) => [key, setting.prefault(defaults[key])] as const);
  return Object.fromEntries(entries) as { [K in keyof S]: z.ZodPrefault<S[K]> };
}
