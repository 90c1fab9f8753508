import postgres from "postgres";
import { required } from "./environment.ts";

/**
 * The connection of this instance, as `postgres`, which bypasses row-level security: every statement names the owner.
 *
 * Instances are many and short-lived, so each has one connection. Prepared statements do not survive a transaction pooler.
 */
export const sql = postgres(required("SUPABASE_DB_URL"), {
  prepare: false,
  max: 1,
  idle_timeout: 20,
  connect_timeout: 10,
  onnotice: () => {},
});

/** Whether an error is one of the connection, so that the same statement may succeed later. */
export function isUnavailable(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  // 08: connection exception; 40: transaction rollback, such as a deadlock; 53: insufficient resources; 57P: shutting down or starting.
  return /^(08|40|53|57P)/.test(code) || /^(CONNECT|ECONN|CONNECTION_)/.test(code) || error instanceof Deno.errors.ConnectionRefused;
}

/** Whether an error says that a value does not fit its column, so that the same statement can never succeed. */
export function isInvalidData(error: unknown): boolean {
  return error instanceof postgres.PostgresError && /^(22|23)/.test(error.code);
}
