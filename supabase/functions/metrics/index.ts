/** Performance by type of job and queues by endpoint, for the operator. */
import { authorizeOperator } from "../_shared/auth.ts";
import { sql } from "../_shared/database.ts";
import { respond, serve } from "../_shared/http.ts";

export async function handle(request: Request): Promise<Response> {
  await authorizeOperator(request);
  const [row] = await sql`
    select
      (select coalesce(json_agg(m order by job_type), '[]') from public.performance_metrics as m) as performance,
      (select coalesce(json_agg(m order by endpoint), '[]') from public.queue_metrics as m) as queues`;
  return respond(200, row);
}

export default serve(handle);
