SELECT meter FROM meter_now ORDER BY position
