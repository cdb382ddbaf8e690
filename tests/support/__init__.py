"""What tests share: clients, servers, desks and fakes."""
