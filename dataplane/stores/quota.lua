-- One worker's turn at a pool: dataplane.quota says what happens and why; the names are the same.
-- KEYS: see PARTS. ARGV: worker, terms and telling as JSON, and the time in milliseconds (empty: Redis' own).
-- The constants in capitals are set by whoever loads this.
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + time[2] / 1000
end
local worker, terms, told = ARGV[1], cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
local POOL, WORKERS, HEARD, GRANTED, TICKETS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FINISH = {interactive = KEYS[6], batch = KEYS[7]}
local QUEUE = {interactive = KEYS[8], batch = KEYS[9]}
local VIPS, SEEN = KEYS[10], KEYS[11]
local OTHER = {interactive = 'batch', batch = 'interactive'}
local HUGE = math.huge

local function exact(number) return string.format('%.17g', number) end

-- Workers: number, slots, spare, vip, is_silent.
local function read_worker(name)
  local stored = redis.call('HGET', WORKERS, name)
  if not stored then return nil end
  local number, slots, spare, vip, silent = string.match(stored, '^(%d+) (%d+) (%d+) (%d+) (%d)$')
  return {number = tonumber(number), slots = tonumber(slots), spare = tonumber(spare), vip = tonumber(vip),
    silent = silent == '1'}
end
local function write_worker(name, one)
  redis.call('HSET', WORKERS, name, string.format('%d %d %d %d %d', one.number, one.slots, one.spare, one.vip,
    one.silent and 1 or 0))
end
local function read_granted(name)
  local stored = redis.call('HGET', GRANTED, name)
  return stored and cjson.decode(stored) or {}
end

local known = read_worker(worker)
if known and told.number <= known.number then
  local heard = redis.call('HGET', HEARD, worker)
  if heard then
    redis.call('ZADD', SEEN, exact(now), worker)
    return heard
  end
end

-- The pool: plain numbers by name.
local p = {}
local stored = redis.call('HGETALL', POOL)
for i = 1, #stored, 2 do p[stored[i]] = tonumber(stored[i + 1]) end
local is_first = p.refilled_at == nil
local function default(name, value) if p[name] == nil then p[name] = value end end
default('refilled_at', now)
default('swept_at', now)
for _, name in ipairs({'paused_until', 'strikes', 'held_ms', 'mean_cost', 'order', 'used', 'vip',
    'clock:interactive', 'clock:batch', 'tag:interactive', 'tag:batch', 'spent1', 'spent2', 'spent3', 'spent4'}) do
  default(name, 0)
end

if not known then
  if is_first and told.number > 1 and terms.concurrency >= 0 then p.paused_until = now + RECOVER_MS end
  known = {number = 0, slots = 0, spare = 0, vip = 0, silent = true}
end
for place, limit in pairs(told.learned) do p['learned' .. place] = limit end

local limits = {}
for rate = 1, 4 do
  local limit, learned = terms.limits[rate], p['learned' .. rate]
  if limit < 0 then limit = nil end
  if learned and (not limit or learned < limit) then limit = learned end
  limits[rate] = limit
end
local function per_ms(rate) return limits[rate] * (1 - terms.headroom) / terms.window_ms end
local function depth(rate) return limits[rate] * terms.headroom / 3 end

local function open_share(at)
  local since = at - p.paused_until
  if p.paused_until == 0 or since >= terms.ramp_ms then return 1 end
  return RAMP_FLOOR + (1 - RAMP_FLOOR) * math.max(0, since) / terms.ramp_ms
end

-- Refill.
local levels = {}
local filled_to = math.max(now, p.refilled_at)
local opening = open_share(filled_to)
do
  local since = math.max(p.refilled_at, p.paused_until)
  local share = (opening + open_share(since)) / 2
  local faded = math.exp((p.refilled_at - filled_to) / terms.window_ms)
  for rate = 1, 4 do
    p['spent' .. rate] = p['spent' .. rate] * faded
    if not limits[rate] then
      levels[rate] = HUGE
    elseif is_first then
      levels[rate] = depth(rate) * opening
    else
      local level = p['level' .. rate] or 0
      local filled = level + math.max(0, filled_to - since) * share * per_ms(rate)
      levels[rate] = math.min(filled, depth(rate) * opening)
    end
  end
  p.refilled_at = filled_to
end

local is_new = known.silent
known.silent = false
known.number = told.number
p.used = p.used + told.in_flight - known.slots - known.spare
local granted = read_granted(worker)
local vip = told.vip_in_flight
for _, one in ipairs(granted) do vip = vip + one[2] end
p.vip = p.vip + vip - known.vip
known.slots, known.spare, known.vip = told.in_flight, 0, vip
write_worker(worker, known)
redis.call('ZADD', SEEN, exact(now), worker)

local function count(class) return redis.call('ZCARD', QUEUE[class]) end
local function unqueue(ticket, entry)
  redis.call('HDEL', TICKETS, ticket)
  redis.call('ZREM', QUEUE[entry.class], entry.member)
  if entry.vip == 1 then redis.call('ZREM', VIPS, entry.member) end
  if count(entry.class) == 0 then
    redis.call('DEL', FINISH[entry.class])
    p['tag:' .. entry.class] = 0
  end
end
local function read_entry(ticket)
  local found = redis.call('HGET', TICKETS, ticket)
  return found and cjson.decode(found) or nil
end

-- Sweep.
if now - p.swept_at >= SILENT_MS / 6 then
  p.swept_at = now
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', exact(now - SILENT_MS))) do
    local one = read_worker(name)
    if one and not one.silent then
      one.silent = true
      write_worker(name, one)
      local tickets = redis.call('HGETALL', TICKETS)
      for i = 1, #tickets, 2 do
        local entry = cjson.decode(tickets[i + 1])
        if entry.worker == name then unqueue(tickets[i], entry) end
      end
    end
    if one and now - tonumber(redis.call('ZSCORE', SEEN, name)) >= GONE_MS then
      p.used = p.used - one.slots - one.spare - #read_granted(name)
      p.vip = p.vip - one.vip
      redis.call('HDEL', WORKERS, name)
      redis.call('HDEL', HEARD, name)
      redis.call('HDEL', GRANTED, name)
      redis.call('ZREM', SEEN, name)
    end
  end
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, KEEP_MS) end
end

if told.held_ms > 0 then
  p.held_ms = p.held_ms == 0 and told.held_ms or p.held_ms * (1 - MEMORY) + told.held_ms * MEMORY
end

-- Settle.
for rate = 1, 4 do
  if limits[rate] then
    levels[rate] = math.min(math.max(depth(rate) * opening, levels[rate]), levels[rate] + told.settled[rate])
    p['spent' .. rate] = math.max(0, p['spent' .. rate] - told.settled[rate])
    if told.is_back then levels[rate] = math.min(levels[rate], 0) end
  end
end

-- Pause.
if told.pause_ms >= 0 then
  if now >= p.paused_until then
    local is_soon = p.paused_until > 0 and now < p.paused_until + terms.ramp_ms
    p.strikes = is_soon and p.strikes + 1 or 0
  end
  local pause_ms = told.pause_ms
  if pause_ms == 0 then
    pause_ms = math.min(FIRST_PAUSE_MS * 2 ^ math.min(p.strikes, 20), math.max(FIRST_PAUSE_MS, terms.window_ms))
  end
  p.paused_until = math.max(p.paused_until, now + pause_ms)
  for rate = 1, 4 do if limits[rate] then levels[rate] = math.min(levels[rate], 0) end end
  opening = open_share(now)
end

-- Who left, and who came.
for _, ticket in ipairs(told.left) do
  local entry = read_entry(ticket)
  if entry then
    unqueue(ticket, entry)
    if redis.call('HGET', FINISH[entry.class], entry.tenant) == entry.finish then
      redis.call('HSET', FINISH[entry.class], entry.tenant, entry.tag)
    end
  end
end

local function cost_of(amounts)
  local cost = 0
  for rate = 1, 4 do if limits[rate] then cost = math.max(cost, amounts[rate] / limits[rate]) end end
  if terms.concurrency >= 0 then cost = math.max(cost, p.held_ms / (terms.window_ms * terms.concurrency)) end
  return cost
end

for _, came in ipairs(told.entries) do
  local ticket, class, tenant, weight, is_vip, amounts = came[1], came[2], came[3], came[4], came[5], came[6]
  if redis.call('HEXISTS', TICKETS, ticket) == 0 then
    if count(class) == 0 then
      local mine, other = 'clock:' .. class, 'clock:' .. OTHER[class]
      if count(OTHER[class]) > 0 then p[mine] = math.max(p[mine], p[other]) else p[mine], p[other] = 0, 0 end
    end
    local cost = cost_of(amounts)
    p.mean_cost = p.mean_cost == 0 and cost or p.mean_cost * (1 - MEMORY) + cost * MEMORY
    local tag = math.max(p['tag:' .. class], tonumber(redis.call('HGET', FINISH[class], tenant) or 0))
    local finish = exact(tag + cost / weight)
    redis.call('HSET', FINISH[class], tenant, finish)
    p.order = p.order + 1
    local member = string.format('%015d:%s', p.order, ticket)
    redis.call('ZADD', QUEUE[class], exact(tag), member)
    if is_vip == 1 then redis.call('ZADD', VIPS, exact(tag), member) end
    redis.call('HSET', TICKETS, ticket, cjson.encode({class = class, tenant = tenant, vip = is_vip, amounts = amounts,
      worker = worker, member = member, tag = exact(tag), finish = finish, cost = cost}))
  end
end

-- Who goes.
local function slots()
  if terms.concurrency < 0 then return HUGE, 0 end
  local most = math.max(1, math.floor(terms.concurrency * open_share(now)))
  return most - p.used, math.max(0, terms.vip_concurrency - p.vip)
end
local function has(amounts)
  if now < p.paused_until then return false end
  for rate = 1, 4 do
    if limits[rate] and levels[rate] + NEARLY < math.min(amounts[rate], depth(rate) * opening) then return false end
  end
  return true
end
local function take(amounts)
  for rate = 1, 4 do
    levels[rate] = levels[rate] - amounts[rate]
    p['spent' .. rate] = p['spent' .. rate] + amounts[rate]
  end
end
local function first(key)
  local member = redis.call('ZRANGE', key, 0, 0)[1]
  if not member then return nil end
  local ticket = string.sub(member, 17)
  return ticket, read_entry(ticket)
end

local granted_to = {}
do
  local left, reserved = slots()
  for _ = 1, MOST_GRANTS do
    local waits_interactive, waits_batch = count('interactive') > 0, count('batch') > 0
    if not waits_interactive and not waits_batch then break end
    local class = 'interactive'
    if not waits_interactive or (waits_batch and p['clock:batch'] < p['clock:interactive']) then class = 'batch' end
    local ticket, entry = first(QUEUE[class])
    if left - reserved < 1 and entry.vip == 0 then
      local vip_ticket, vip_entry = first(VIPS)
      if vip_ticket then class, ticket, entry = 'interactive', vip_ticket, vip_entry end
    end
    if left - (entry.vip == 1 and 0 or reserved) < 1 or not has(entry.amounts) then break end
    p['tag:' .. class] = math.max(p['tag:' .. class], tonumber(entry.tag))
    local share = class == 'batch' and terms.batch_share or 1 - terms.batch_share
    p['clock:' .. class] = p['clock:' .. class] + entry.cost / share
    unqueue(ticket, entry)
    take(entry.amounts)
    local holder = granted_to[entry.worker]
    if not holder then
      holder = {granted = entry.worker == worker and granted or read_granted(entry.worker), vip = 0}
      granted_to[entry.worker] = holder
    end
    table.insert(holder.granted, {ticket, entry.vip})
    holder.vip = holder.vip + entry.vip
    p.used = p.used + 1
    p.vip = p.vip + entry.vip
    left = left - 1
    reserved = math.max(0, reserved - entry.vip)
  end
end
for name, holder in pairs(granted_to) do
  if name == worker then
    known.vip = known.vip + holder.vip
  else
    redis.call('HSET', GRANTED, name, cjson.encode(holder.granted))
    if holder.vip > 0 then
      local one = read_worker(name)
      one.vip = one.vip + holder.vip
      write_worker(name, one)
    end
  end
end
redis.call('HDEL', GRANTED, worker)
known.slots = known.slots + #granted

-- A lease.
local waiting = {count('interactive'), count('batch')}
local lease, lease_slots = {0, 0, 0, 0}, 0
if told.wants_slots > 0 and waiting[1] + waiting[2] == 0 and now >= p.paused_until then
  local part = 1
  for rate = 1, 4 do
    if limits[rate] and told.wants[rate] > 0 then
      part = math.min(part, math.max(0, levels[rate]) * LEASE_SHARE / told.wants[rate])
    end
  end
  local most = told.wants_slots
  if terms.concurrency >= 0 then
    local left, reserved = slots()
    most = math.min(most, math.max(0, left - reserved) * LEASE_SHARE)
  end
  local got = math.floor(math.min(told.wants_slots * part, most) + NEARLY)
  if got >= 1 then
    lease_slots = got
    for rate = 1, 4 do lease[rate] = told.wants[rate] * got / told.wants_slots end
    take(lease)
    if terms.concurrency >= 0 then
      known.spare = got
      p.used = p.used + got
    end
  end
end
write_worker(worker, known)

-- How long it takes.
local function position(class, ahead)
  local share = terms.batch_share
  if class == 'interactive' then return 1 + ahead + math.min(waiting[2], math.floor(ahead * share / (1 - share))) end
  return 1 + ahead + math.min(waiting[1], math.floor((ahead + 1) * (1 - share) / share))
end
local function eta(class, ahead)
  local saved = nil
  for rate = 1, 4 do
    if limits[rate] then saved = math.min(saved or HUGE, levels[rate] / per_ms(rate)) end
  end
  local each = p.mean_cost * terms.window_ms / (1 - terms.headroom) / open_share(now)
  return math.max(0, p.paused_until - now) + math.max(0, position(class, ahead) * each - (saved or 0))
end
local places = {}
for _, ticket in ipairs(told.places) do
  local entry = read_entry(ticket)
  if entry then
    local ahead = redis.call('ZRANK', QUEUE[entry.class], entry.member)
    table.insert(places, {ticket, position(entry.class, ahead), eta(entry.class, ahead)})
  end
end

local used_share = 0
local shown = {}
for rate = 1, 4 do
  shown[rate] = limits[rate] or -1
  if limits[rate] then
    used_share = math.max(used_share, p['spent' .. rate] / limits[rate])
    p['level' .. rate] = levels[rate]
  else
    redis.call('HDEL', POOL, 'level' .. rate)
    p['level' .. rate] = nil
  end
end
local written = {}
for name, value in pairs(p) do
  table.insert(written, name)
  table.insert(written, exact(value))
end
redis.call('HSET', POOL, unpack(written))

local tickets = {}
for _, one in ipairs(granted) do table.insert(tickets, one[1]) end
local heard = cjson.encode({number = told.number, is_new = is_new, granted = tickets, lease = lease, slots = lease_slots,
  paused_ms = math.max(0, p.paused_until - now), open_share = open_share(now), places = places, waiting = waiting,
  eta_ms = {eta('interactive', waiting[1]), eta('batch', waiting[2])}, limits = shown, used_share = used_share})
redis.call('HSET', HEARD, worker, heard)
return heard
