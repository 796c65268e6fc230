-- Makes an assured subscription, with a stream and its group that outlive the client. Retained events come where the
-- subscription is new, or where `always` says so.
local client, filter, keep, always = unpack(ARGV)
local filters, queue = 'shunt:filters:' .. client, 'shunt:queue:' .. client
redis.call('SADD', 'shunt:clients', client)
local new = redis.call('SADD', filters, filter)
redis.call('EXPIRE', filters, keep)
-- It may be there already.
redis.pcall('XGROUP', 'CREATE', queue, client, '0', 'MKSTREAM')
redis.call('EXPIRE', queue, keep)
if new == 1 or always == '1' then
  local retained = redis.call('HGETALL', 'shunt:retained')
  for at = 1, #retained, 2 do
    if matches(split(filter), split(retained[at])) then
      redis.call('XADD', queue, '*', 'topic', retained[at], 'event', retained[at + 1])
    end
  end
end
return new
